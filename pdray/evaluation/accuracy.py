"""Preference accuracy of a policy on held-out pairs, with bootstrap intervals over prompts. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and the interval that it lies in.

    Attributes:
        mean: of the values.
        low, high: of the 95% bootstrap interval.
        pairs: values that were averaged.
    """

    mean: float
    low: float
    high: float
    pairs: int


def implicit_margins(policy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """How much more a policy prefers the chosen response than its reference does: M_θ of docs/method.md without β.

    Args:
        policy, reference: (n, 2) log-probabilities of chosen and rejected response, nats.

    Returns:
        (n,) float64.
    """
    ratios = policy.astype(np.float64) - reference.astype(np.float64)
    margins: np.ndarray = ratios[:, 0] - ratios[:, 1]
    return margins


def is_right(margins: np.ndarray) -> np.ndarray:
    """1 where the chosen response is preferred, 0 where the rejected one is, 0.5 for neither; NaN stays."""
    return np.where(np.isnan(margins), np.nan, (np.sign(margins) + 1) / 2)


def estimate(values: np.ndarray, prompts: np.ndarray, seed: int) -> Estimate:
    """The mean of some values, with the percentile interval of a bootstrap that draws whole prompts.

    Pairs of one prompt resemble each other, so drawing them one by one would give intervals that are too narrow.

    Args:
        values: (n,) finite, n > 0; of two policies, the differences of their values give a paired comparison.
        prompts: (n,), equal for pairs of one prompt.
        seed: of the draws.
    """
    _, group = np.unique(prompts, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    means = draws @ sums / (draws @ counts)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(np.mean(values)), float(low), float(high), len(values))
