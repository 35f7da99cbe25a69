"""What is read off counts on a fixed grid, so that no pass holds more than a shard. Pure functions."""

from __future__ import annotations

import numpy as np


def grid_quantile(counts: np.ndarray, limit: float, share: float) -> float | None:
    """The value that a share of those on the grid does not exceed, within one part; None of no values."""
    total = np.cumsum(counts)
    if not total[-1]:
        return None
    place = int(np.searchsorted(total, share * total[-1]))
    below = total[place] - counts[place]
    part = (share * total[-1] - below) / counts[place] if counts[place] else 0.0
    return float((place + part) * 2 * limit / len(counts) - limit)


def coarser(counts: np.ndarray, bars: int) -> np.ndarray:
    """The same counts in fewer parts, along the last axis; their number must divide that of the parts."""
    fewer: np.ndarray = counts.reshape(*counts.shape[:-1], bars, -1).sum(axis=-1)
    return fewer


def conflict_curve(conflicts: np.ndarray, agreeing: np.ndarray, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """The share of conflicts among the pairs with the lowest divergence, for every share that is kept.

    Args:
        conflicts, agreeing: (bins,) counts of the pairs of which it is known, from the lowest divergence on.
        points: budgets.

    Returns:
        (points,) budgets in (0, 1], and (points,) shares. Within a part of the grid conflicts are spread evenly.
    """
    known = np.concatenate([[0], np.cumsum(conflicts + agreeing)])
    found = np.concatenate([[0], np.cumsum(conflicts)])
    budgets = np.arange(1, points + 1) / points
    kept = budgets * known[-1]
    shares = np.interp(kept, known, found) / np.maximum(kept, 1e-300)
    return budgets, shares


def agreement(products: np.ndarray, squares: np.ndarray) -> list[list[float | None]]:
    """How much the margins of two aspects go together, Σ m_a m_b / √(Σ m_a² Σ m_b²), over the pairs that have both.

    Args:
        products: (κ, κ) Σ m_a m_b.
        squares: (κ, κ) Σ m_a² over the pairs that have m_b too.

    Returns:
        κ rows of κ numbers in [−1, 1]; None where no pair has both.
    """
    scale = np.sqrt(squares * squares.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = products / scale
    return [[float(value) if np.isfinite(value) else None for value in row] for row in found]


def octaves(tokens: np.ndarray, most: int = 31) -> np.ndarray:
    """(n,) int64: the k for which each length lies in [2^k, 2^(k+1)); 0 for the length 0 as well."""
    found: np.ndarray = np.minimum(np.log2(np.maximum(tokens, 1)).astype(np.int64), most)
    return found
