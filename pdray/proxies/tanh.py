"""Bradley-Terry regression of a dense layer with tanh and a final layer on it. Pure functions on arrays.

The reward of a text with standardised features z is v·tanh(Dz + d), and

    L(D, d, v) = Σ w log(1 + exp(−(r⁺ − r⁻ − m))) / Σ w + l2/2 (|D|² + |v|²)

Such a head can know texts that recur in many pairs one by one, which H weights cannot. The loss is not convex: the fit
begins at seeded weights and ends at a tolerance or after so many steps over all texts. SciPy's L-BFGS-B spends more
time on its bounds, of which there are none, than on the products, so it is PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pdray.proxies.fit import Fit

STRENGTHS = tuple(float(strength) for strength in np.logspace(-1, -3.5, 6))
TOLERANCE = 1e-4  # of the largest entry of the gradient, which float32 resolves
MAX_ITERATIONS = 300
SEARCH_STEPS = 100  # of a fit that is only compared with those of other strengths
MAX_FEATURES = 1024  # a wider dense layer would take minutes for each fit
MAX_PRODUCTS = 2**26  # multiplications of one pass over the texts: about 0.007 seconds a step on one CPU
MIN_UNITS = 8
HISTORY = 10


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


def split(weights: torch.Tensor, units: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """D (units, H), d (units,) and v (units,) from the flat weights of a fit."""
    dense, bias, final = weights.split([len(weights) - 2 * units, units, units])
    return dense.view(units, -1), bias, final


def tanh_loss(weights: torch.Tensor, pairs: Comparisons, l2: float, units: int) -> torch.Tensor:
    """The loss of flat weights, a float64 scalar; matrices are multiplied in the type of the texts, which they have."""
    dense, bias, final = split(weights, units)
    hidden = torch.tanh(torch.addmm(bias, torch.from_numpy(pairs.texts), dense.T))
    reward = (hidden @ final).double()
    logit = reward[torch.from_numpy(pairs.chosen)] - reward[torch.from_numpy(pairs.rejected)]
    share = torch.from_numpy(pairs.weight / pairs.weight.sum())
    loss = share @ torch.nn.functional.softplus(torch.from_numpy(pairs.margin) - logit)
    return loss + l2 / 2 * (dense.square().sum() + final.square().sum())


def fit_tanh(
    pairs: Comparisons, l2: float, units: int, seed: int, start: np.ndarray | None = None, steps: int = MAX_ITERATIONS
) -> Fit:
    """A minimum of :func:`tanh_loss` by L-BFGS.

    Args:
        pairs: n of them.
        l2: strength, positive.
        units: of the dense layer.
        seed: of the weights to begin with.
        start: flat weights to begin with instead.
        steps: at most.
    """
    begin = initial(pairs.texts.shape[1], units, seed) if start is None else start
    weights = torch.from_numpy(begin.astype(pairs.texts.dtype)).requires_grad_()
    search = torch.optim.LBFGS(
        [weights],
        max_iter=steps,
        max_eval=2 * steps,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        search.zero_grad()
        found = tanh_loss(weights, pairs, l2, units)
        found.backward()
        return found

    search.step(loss)
    assert weights.grad is not None
    gradient = float(weights.grad.abs().max())
    iterations = int(search.state[weights]["n_iter"])
    return Fit(weights.detach().numpy().astype(np.float64), l2, iterations, gradient, gradient <= TOLERANCE)


def initial(num_features: int, units: int, seed: int) -> np.ndarray:
    """Flat weights to begin with: normal, with variance 1/H and 1/units; no bias. All zeros would stay so."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal(units * num_features) / np.sqrt(num_features)
    return np.concatenate([dense, np.zeros(units), draw.standard_normal(units) / np.sqrt(units)])
