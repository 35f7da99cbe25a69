"""Quantile scaling and preference divergence (METHOD: eq. 12-17) as pure array functions."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np


def reward_margins(
    reward_chosen: np.ndarray,
    reward_rejected: np.ndarray,
    len_chosen: np.ndarray,
    len_rejected: np.ndarray,
    length_penalty: float,
) -> np.ndarray:
    """Length-corrected margin of one aspect, Δr̂ − ρ Δlen (eq. 12 and 17).

    Args:
        reward_chosen, reward_rejected: (n,) float, NaN where the proxy did not score.
        len_chosen, len_rejected: (n,) int, response lengths in tokens.
        length_penalty: ρ, reward per token.

    Returns:
        (n,) float32.
    """
    lengths = np.asarray(len_chosen, np.float64) - np.asarray(len_rejected, np.float64)
    margins = np.asarray(reward_chosen, np.float64) - np.asarray(reward_rejected, np.float64)
    return (margins - length_penalty * lengths).astype(np.float32)


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


def preference_divergence(scaled: np.ndarray, own: np.ndarray) -> np.ndarray:
    """PD, minus the sum of the other aspects' scaled margins (eq. 15); negative where they agree with the label.

    Args:
        scaled: (n, κ) float64 in [−1, 1].
        own: (n,) int, index of the aspect that labelled the pair; its column is not read.

    Returns:
        (n,) float64 in [−(κ−1), κ−1]; NaN where a needed margin is NaN.
    """
    total = np.zeros(len(scaled))
    # One column after the other: a sum along the row could round differently for another memory layout.
    for index in range(scaled.shape[1]):
        total -= np.where(own == index, 0.0, scaled[:, index])
    return total + 0.0  # never -0.0, which would print and sort beside 0.0


def num_kept(budget: float, count: int) -> int:
    """⌊λN⌋ in decimal arithmetic, so that 0.29 of 100 is 29."""
    return int(Decimal(str(budget)) * count)
