"""How well the divergence tells pairs in true conflict from the others, from counts on a fixed grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.schema import PAIRS
from pdray.shards import ShardedFolder

BINS = 4096


@dataclass(frozen=True)
class CountConflicts:
    """Counts the divergences of a shard's pairs by whether they are in conflict; picklable, called in workers.

    Attributes:
        corpus: whose ``pairs`` know conflicts.
        selection: whose ``pairs`` have the divergence.
        limit: see :func:`largest_divergence`.
    """

    corpus: ShardedFolder
    selection: ShardedFolder
    limit: float

    def __call__(self, shard: int) -> np.ndarray:
        """(2, BINS) int64, of pairs in conflict and of the others; those of which it is not known are left out."""
        conflict = self.corpus.read(PAIRS, shard, ["conflict"])["conflict"].cast(pa.float64()).to_numpy()
        divergence = self.selection.read(PAIRS, shard, ["pd"])["pd"].to_numpy()
        return np.stack([grid_counts(divergence[conflict == value], self.limit) for value in (1, 0)])


def largest_divergence(weights: Mapping[str, float]) -> float:
    """The largest size that a divergence can have, by the weights of all κ aspects."""
    return (sum(weights.values()) - min(weights.values())) or 1.0


def grid_counts(values: np.ndarray, limit: float, bins: int = BINS) -> np.ndarray:
    """How many values lie in each of the equal parts of [−limit, limit].

    Args:
        values: (n,) float; NaN and infinities are left out, what lies beyond the limits is counted at the ends.
        limit: > 0.
        bins: parts.

    Returns:
        (bins,) int64.
    """
    finite = np.clip(values[np.isfinite(values)].astype(np.float64), -limit, limit)
    places = ((finite + limit) * (bins / (2 * limit))).astype(np.int64)
    counts: np.ndarray = np.bincount(np.minimum(places, bins - 1), minlength=bins)
    return counts


def auroc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float] | None:
    """How often a positive lies above a negative, ties counting half, and by how much the grid can be wrong.

    Two values in the same part of the grid count as tied; at most half of such pairs is the error.

    Args:
        positive, negative: (bins,) counts on the same grid.

    Returns:
        the area under the ROC curve and the largest error; None where there are none of either.
    """
    pairs = float(positive.sum()) * float(negative.sum())
    if not pairs:
        return None
    below = np.cumsum(negative) - negative
    tied = float((positive.astype(np.float64) * negative).sum())
    return (float((positive.astype(np.float64) * below).sum()) + tied / 2) / pairs, tied / 2 / pairs
