"""The length-corrected reward margin (docs/method.md: eq. 17): what the proxies report is what the selection uses."""

from __future__ import annotations

import numpy as np


def final_margin(
    reward_margin: np.ndarray, length_difference: np.ndarray, length_penalty: float | np.ndarray
) -> np.ndarray:
    """The margin that preference divergence uses, Δr − ρΔlen (eq. 17).

    Args:
        reward_margin: (n,) reward of the chosen minus that of the rejected response; NaN where one is not known.
        length_difference: (n,) tokens of the chosen minus those of the rejected response.
        length_penalty: ρ, reward per token; of each of several proxies where margins have a column for each.

    Returns:
        (n,) float64.
    """
    return np.asarray(reward_margin, dtype=np.float64) - length_penalty * np.asarray(length_difference, np.float64)
