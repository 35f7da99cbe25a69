"""Bradley-Terry regression of one linear head, to convergence. Pure functions on arrays.

The loss of a head v on standardised feature differences d is convex:

    L(v) = Σ w log(1 + exp(−(d·v − m))) / Σ w + l2/2 |v|²

with m the margin of eq. 16 and w the weights of balanced sampling. A frozen backbone therefore needs neither learning
rate nor epochs: there is one optimum, and it is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRENGTHS = tuple(float(strength) for strength in np.logspace(0.5, -4.5, 6))  # strongest first
TOLERANCE = 1e-6  # of the largest entry of the gradient
MAX_ITERATIONS = 5000


@dataclass(frozen=True)
class Pairs:
    """What a head is fitted to.

    Attributes:
        difference: (n, H) float64, features of chosen less features of rejected, each divided by its spread.
        margin: (n,) what the loss subtracts.
        weight: (n,) of each pair.
    """

    difference: np.ndarray
    margin: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted head.

    Attributes:
        weights: float64, all of the head's numbers; (H,) of a linear one.
        l2: strength.
        iterations: of L-BFGS.
        gradient: largest entry of the gradient at the end.
        converged: whether the optimum was reached.
    """

    weights: np.ndarray
    l2: float
    iterations: int
    gradient: float
    converged: bool


def bradley_terry(weights: np.ndarray, pairs: Pairs, l2: float) -> tuple[float, np.ndarray]:
    """The loss of a head and its gradient, (H,)."""
    from scipy.special import expit

    logit = pairs.difference @ weights - pairs.margin
    share = pairs.weight / pairs.weight.sum()
    loss = share @ np.logaddexp(0.0, -logit) + l2 / 2 * weights @ weights
    gradient = -pairs.difference.T @ (share * expit(-logit)) + l2 * weights
    return float(loss), gradient


def fit_head(pairs: Pairs, l2: float, start: np.ndarray | None = None) -> Fit:
    """The optimum of :func:`bradley_terry` by L-BFGS.

    Args:
        pairs: n of them.
        l2: strength, positive.
        start: (H,) where to begin.
    """
    from scipy.optimize import minimize

    begin = np.zeros(pairs.difference.shape[1]) if start is None else start
    options = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "ftol": 0.0, "gtol": TOLERANCE, "maxcor": 20}
    found = minimize(bradley_terry, begin, args=(pairs, l2), jac=True, method="L-BFGS-B", options=options)
    gradient = float(np.abs(found.jac).max(initial=0.0))
    return Fit(found.x, l2, int(found.nit), gradient, gradient <= TOLERANCE)
