"""Whether a pair's label opposes the other aspects' true ratings. For evaluation only."""

from __future__ import annotations

import numpy as np


def conflicts(differences: np.ndarray, own: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Mark the pairs whose label opposes the sum of the other aspects' scaled true ratings.

    Each aspect's difference is divided by the span of its ratings over the corpus, so that aspects rated on
    different scales count alike. An aspect without a rating counts nothing.

    Args:
        differences: (n, κ) float64, rating of chosen minus rating of rejected, NaN where there is none.
        own: (n,) int, index of the aspect that labelled the pair.
        spans: (κ,) float64, largest rating minus smallest.

    Returns:
        (n,) float64: 1 in conflict, 0 not, NaN where no other aspect is rated.
    """
    scaled = differences / np.where(spans > 0, spans, 1.0)
    scaled[np.arange(len(own)), own] = np.nan
    known = ~np.isnan(scaled).all(axis=1)
    # Rounding keeps sums that cancel, such as 1/3 + 1/3 - 2/3, from being conflicts by 1e-17.
    opposed = np.round(np.nansum(scaled, axis=1), 9) < 0
    return np.where(known, opposed.astype(np.float64), np.nan)
