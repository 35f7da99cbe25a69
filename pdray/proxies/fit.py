"""Bradley-Terry regression of one linear head, to convergence. Pure functions on arrays.

The loss of a head v on standardised feature differences d is convex:

    L(v) = Σ w log(1 + exp(−(d·v − m))) / Σ w + l2/2 |v|²

with m the margin of eq. 16 and w the weights of balanced sampling. A frozen backbone therefore needs neither learning
rate nor epochs: there is one optimum, and it is found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

STRENGTHS = tuple(float(strength) for strength in np.logspace(0.5, -4.5, 6))  # strongest first, for warm starts
FOLDS = 3
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

    def take(self, rows: np.ndarray) -> Pairs:
        """Some of the pairs, by a mask or by positions."""
        return Pairs(self.difference[rows], self.margin[rows], self.weight[rows])


@dataclass(frozen=True)
class Fit:
    """A fitted head.

    Attributes:
        weights: (H,) float64.
        l2: strength.
        iterations: of L-BFGS.
        gradient: largest entry of the gradient at the end.
        losses: mean validation loss of each of :data:`STRENGTHS`, where they were compared.
        accuracy: on validation pairs, of the strength that was taken.
    """

    weights: np.ndarray
    l2: float
    iterations: int
    gradient: float
    losses: tuple[float, ...] = ()
    accuracy: float | None = None

    @property
    def converged(self) -> bool:
        """Whether the optimum was reached."""
        return self.gradient <= TOLERANCE


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
    return Fit(found.x, l2, int(found.nit), float(np.abs(found.jac).max(initial=0.0)))


def fold_of(groups: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """The fold of each pair, (n,) int64: every group (a prompt's hash) lies in one fold, and folds hold equally many.

    Args:
        groups: (n,) uint64.
        folds: how many, no more than there are groups.
    """
    distinct, inverse = np.unique(groups, return_inverse=True)
    result: np.ndarray = (np.arange(len(distinct)) % folds)[inverse]
    return result


def validate(pairs: Pairs, groups: np.ndarray) -> np.ndarray:
    """Cross-validation over folds of whole groups.

    Args:
        pairs: n of them.
        groups: (n,) uint64, at least two different ones.

    Returns:
        (strengths, 2) mean loss and accuracy on pairs that a fit has not seen.
    """
    fold = fold_of(groups, min(FOLDS, len(np.unique(groups))))
    totals = np.zeros((len(STRENGTHS), 2))
    for held_out in range(fold.max() + 1):
        train, unseen = pairs.take(fold != held_out), pairs.take(fold == held_out)
        weights = None
        for index, l2 in enumerate(STRENGTHS):
            weights = fit_head(train, l2, weights).weights
            right = (unseen.difference @ weights > unseen.margin).astype(np.float64)
            shares = bradley_terry(weights, unseen, 0.0)[0], np.average(right, weights=unseen.weight)
            totals[index] += unseen.weight.sum() * np.array(shares)
    totals /= pairs.weight.sum()
    return totals


def fit_cross_validated(pairs: Pairs, prompts: np.ndarray, seen_share: float) -> Fit:
    """Fit a head with the strength that is best for the pairs that it will score.

    Those are the pairs of the other aspects. A share of them has prompts, and often texts, that stand in pairs of this
    aspect too: folds of single pairs are like them. The rest has new prompts, like folds of whole prompts. The strength
    has the smallest validation loss over both kinds in that proportion.

    Args:
        pairs: n of them, of two prompts at least.
        prompts: (n,) uint64, the prompt of each pair.
        seen_share: share of the other aspects' pairs whose prompt is among them.
    """
    kinds = ((seen_share, np.arange(len(prompts), dtype=np.uint64)), (1.0 - seen_share, prompts))
    validation = np.zeros((len(STRENGTHS), 2))
    for share, groups in kinds:
        if share > 0:
            validation += share * validate(pairs, groups)
    best = int(validation[:, 0].argmin())  # of equal losses the stronger one
    fit = fit_head(pairs, STRENGTHS[best])
    return replace(fit, accuracy=float(validation[best, 1]), losses=tuple(validation[:, 0].tolist()))
