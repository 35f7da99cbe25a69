"""Where an order statistic is likely to lie, from a sample of one shard, so that one pass over all finds it exactly.

A guess decides nothing: one that does not hold costs the radix passes that there would have been without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Standard errors on either side; pairs of one prompt resemble each other, so a sample tells less than its size says.
DEVIATIONS = 6.0
# Most values that are collected in one place.
MOST_INSIDE = 1 << 18


@dataclass(frozen=True)
class Bracket:
    """Two values, as bits that sort as the values do, between which another is likely to lie, both included."""

    low: int
    high: int

    def holds(self, bits: np.ndarray) -> np.ndarray:
        """Which of n values lie between, (n,) bool."""
        kind = bits.dtype.type
        inside: np.ndarray = (bits >= kind(self.low)) & (bits <= kind(self.high))
        return inside


def guess(sample: np.ndarray, share: float, shards: int) -> Bracket | None:
    """Between which values a share of all values is likely to end.

    Args:
        sample: (n,) unsigned bits of one shard.
        share: of all values, those up to the wanted one, from 0 to 1.
        shards: S, by which the sample is multiplied to tell how many values lie between.

    Returns:
        None where too many values would have to be collected, or there is no sample.
    """
    if not len(sample):
        return None
    ordered = np.sort(sample)
    middle = share * len(ordered)
    reach = DEVIATIONS * math.sqrt(len(ordered) * share * (1 - share)) + 1
    first, last = math.floor(middle - reach), math.ceil(middle + reach)
    low = int(ordered[first]) if first >= 0 else 0
    high = int(ordered[last]) if last < len(ordered) else int(np.iinfo(ordered.dtype).max)
    found = Bracket(low, high)
    return found if int(found.holds(ordered).sum()) * shards <= MOST_INSIDE else None


@dataclass(frozen=True)
class Around:
    """The values around a bracket, of some shards.

    Attributes:
        total: values.
        below: those that come before the bracket.
        inside: (m,) unsigned bits of those in it; None once they are more than :data:`MOST_INSIDE`.
    """

    total: int
    below: int
    inside: np.ndarray | None

    def __add__(self, other: Around) -> Around:
        parts = [self.inside, other.inside]
        return Around(self.total + other.total, self.below + other.below, _together(parts))

    def at(self, rank: int) -> int | None:
        """The value of a rank from 1, None where it is not among those inside."""
        if self.inside is None or not 0 < rank - self.below <= len(self.inside):
            return None
        return int(np.partition(self.inside, rank - self.below - 1)[rank - self.below - 1])


def around(bits: np.ndarray, bracket: Bracket) -> Around:
    """The values around a bracket, of one shard."""
    below = int((bits < bits.dtype.type(bracket.low)).sum())
    return Around(len(bits), below, _together([bits[bracket.holds(bits)]]))


def _together(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or sum(map(len, known)) > MOST_INSIDE:
        return None
    together: np.ndarray = np.concatenate(known)
    return together
