"""How many distinct things a whole has, by some of its parts. Pure functions."""

from __future__ import annotations

import numpy as np


def estimate_distinct(chunks: list[np.ndarray], share: float) -> float:
    """Distinct keys of a whole of which a share was read, in chunks of neighbours.

    What repeats beside itself repeats within a chunk; what repeats anywhere is met again in another one. The first is
    counted off in each chunk; for the second every key is taken to stand in as many chunks' places as any other, so
    that of D keys with M occurrences a share q meets D(1 − (1 − q)^(M/D)), which is solved for D. Exact where all
    was read, or where nothing repeats beyond a chunk.

    Args:
        chunks: keys of each, comparable.
        share: q in (0, 1].
    """
    each = [np.unique(keys) for keys in chunks if len(keys)]
    if not each:
        return 0.0
    met = len(np.unique(np.concatenate(each)))
    occurrences = sum(map(len, each)) / share
    if share >= 1:
        return float(met)
    low, high = float(met), float(occurrences)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_met(middle, occurrences, share) < met else (low, middle)
    return (low + high) / 2


def expected_met(distinct: float, occurrences: float, share: float) -> float:
    """Of so many distinct keys with so many occurrences, those that a random share of the occurrences meets."""
    if share >= 1:
        return distinct
    return float(distinct * -np.expm1(np.log1p(-share) * occurrences / max(distinct, 1e-9)))
