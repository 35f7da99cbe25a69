"""Quantile scaling and preference divergence (docs/method.md: eq. 12-17) as pure array functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from pdray.margins import final_margin


def reward_margins(
    rewards: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, length_difference: np.ndarray, length_penalty: float
) -> np.ndarray:
    """Length-corrected margin of one aspect for some pairs of texts (eq. 12 and 17).

    Args:
        rewards: (t,) float, a reward per text, NaN where the proxy did not score.
        chosen, rejected: (n,) int, the texts of each pair.
        length_difference: (n,) tokens, length of the chosen minus that of the rejected response.
        length_penalty: ρ, reward per token.

    Returns:
        (n,) float32.
    """
    # Infinite rewards of both sides have no difference; what is not finite is left out later.
    with np.errstate(invalid="ignore", over="ignore"):
        margins = np.asarray(rewards[chosen], np.float64) - np.asarray(rewards[rejected], np.float64)
        return final_margin(margins, length_difference, length_penalty).astype(np.float32)


def quantile_rank(gamma: float, count: int) -> int:
    """Rank from 1 of the γ-quantile among ``count`` sorted values: the smallest one that γ of them do not exceed.

    An order statistic, not an interpolation, so that it is exact however the values are spread over blocks.
    """
    return max(1, math.ceil(Decimal(str(gamma)) * count))


def scale_margins(margins: np.ndarray, quantile: float) -> np.ndarray:
    """Margins divided by the γ-quantile of their size and clipped to [−1, 1] (eq. 13-14).

    With a quantile of 0 every margin but 0 lies beyond it and becomes ±1.

    Args:
        margins: (n,) float32.
        quantile: q ≥ 0.

    Returns:
        (n,) float64; NaN and ±inf become NaN.
    """
    values = np.where(np.isfinite(margins), margins, np.nan).astype(np.float64)
    return np.clip(values / quantile, -1.0, 1.0) if quantile > 0 else np.sign(values)


def preference_divergence(scaled: np.ndarray, own: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """PD, minus the sum of the other aspects' scaled margins (eq. 15); negative where they agree with the label.

    Args:
        scaled: (n, κ) float64 in [−1, 1].
        own: (n,) int, index of the aspect that labelled the pair; its column is not read.
        weights: κ numbers ≥ 0 by which the margins count; None is 1 for each, the paper's. A margin of weight 0 is not
            needed.

    Returns:
        (n,) float64, in [−(κ−1), κ−1] where all weights are 1; NaN where a needed margin is NaN.
    """
    total = np.zeros(len(scaled))
    # One column after the other: a sum along the row could round differently for another memory layout.
    for index, weight in enumerate(weights or [1.0] * scaled.shape[1]):
        if weight:
            total -= weight * np.where(own == index, 0.0, scaled[:, index])
    return total + 0.0  # never -0.0, which would print and sort beside 0.0


def num_kept(budget: float, count: int) -> int:
    """⌊λN⌋ in decimal arithmetic, so that 0.29 of 100 is 29."""
    return int(Decimal(str(budget)) * count)
