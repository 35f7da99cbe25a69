"""Bradley-Terry regression of a dense layer with tanh and a final layer on it. Pure functions on arrays.

The reward of a text with standardised features z is v·tanh(Dz + d), and

    L(D, d, v) = Σ w log(1 + exp(−(r⁺ − r⁻ − m))) / Σ w + l2/2 (|D|² + |v|²)

Such a head can know texts that recur in many pairs one by one, which H weights cannot. The loss is not convex: the fit
begins at seeded weights and ends at a tolerance or after so many steps over all texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pdray.proxies.fit import Fit

STRENGTHS = tuple(float(strength) for strength in np.logspace(-1, -3.5, 6))
TOLERANCE = 1e-4  # of the largest entry of the gradient, which float32 resolves
MAX_ITERATIONS = 300
MAX_FEATURES = 1024  # a wider dense layer would take minutes for each fit
MAX_PRODUCTS = 2**26  # multiplications of one pass over the texts: about 0.015 seconds a step on one CPU
MIN_UNITS = 8


@dataclass(frozen=True)
class Comparisons:
    """What a tanh head is fitted to.

    Attributes:
        texts: (t, H) float32, standardised features, every text once.
        chosen, rejected: (n,) int64, rows of ``texts``.
        margin: (n,) what the loss subtracts.
        weight: (n,) of each pair.
    """

    texts: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    margin: np.ndarray
    weight: np.ndarray


def units_of(num_texts: int, num_features: int, num_aspects: int) -> int:
    """Units of the dense layer that one aspect gets: its part of the H there are, fewer where texts are many.

    Returns:
        0 where that leaves too few, or H is beyond :data:`MAX_FEATURES`: only linear heads are fitted then.
    """
    if num_features > MAX_FEATURES:
        return 0
    units = min(num_features // num_aspects, MAX_PRODUCTS // max(1, num_texts * num_features))
    return units if units >= MIN_UNITS else 0


def split(weights: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """D (units, H), d (units,) and v (units,) from the flat weights of a fit."""
    dense, bias, final = np.split(weights, [len(weights) - 2 * units, len(weights) - units])
    return dense.reshape(units, -1), bias, final


def tanh_loss(weights: np.ndarray, pairs: Comparisons, l2: float, units: int) -> tuple[float, np.ndarray]:
    """The loss of flat weights and its gradient, float64; matrices are multiplied in the type of the texts."""
    from scipy.special import expit

    dense, bias, final = split(weights.astype(pairs.texts.dtype), units)
    hidden = np.tanh(pairs.texts @ dense.T + bias)
    reward = (hidden @ final).astype(np.float64)
    logit = reward[pairs.chosen] - reward[pairs.rejected] - pairs.margin
    share = pairs.weight / pairs.weight.sum()
    by_pair = share * expit(-logit)
    count = len(pairs.texts)
    by_reward = np.bincount(pairs.rejected, by_pair, count) - np.bincount(pairs.chosen, by_pair, count)
    by_reward = by_reward.astype(pairs.texts.dtype)
    by_hidden = (1 - hidden * hidden) * np.outer(by_reward, final)
    gradient = [by_hidden.T @ pairs.texts + l2 * dense, by_hidden.sum(0), hidden.T @ by_reward + l2 * final]
    penalty = l2 / 2 * float((dense.astype(np.float64) ** 2).sum() + (final.astype(np.float64) ** 2).sum())
    loss = float(share @ np.logaddexp(0.0, -logit)) + penalty
    return loss, np.concatenate([part.ravel() for part in gradient]).astype(np.float64)


def fit_tanh(pairs: Comparisons, l2: float, units: int, seed: int, start: np.ndarray | None = None) -> Fit:
    """A minimum of :func:`tanh_loss` by L-BFGS.

    Args:
        pairs: n of them.
        l2: strength, positive.
        units: of the dense layer.
        seed: of the weights to begin with.
        start: flat weights to begin with instead.
    """
    from scipy.optimize import minimize

    begin = initial(pairs.texts.shape[1], units, seed) if start is None else start
    options = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "ftol": 0.0, "gtol": TOLERANCE, "maxcor": 20}
    found = minimize(tanh_loss, begin, args=(pairs, l2, units), jac=True, method="L-BFGS-B", options=options)
    gradient = float(np.abs(found.jac).max())
    return Fit(found.x, l2, int(found.nit), gradient, gradient <= TOLERANCE)


def initial(num_features: int, units: int, seed: int) -> np.ndarray:
    """Flat weights to begin with: normal, with variance 1/H and 1/units; no bias. All zeros would stay so."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal(units * num_features) / np.sqrt(num_features)
    return np.concatenate([dense, np.zeros(units), draw.standard_normal(units) / np.sqrt(units)])
