"""The exact cut: the pair that is the last to be kept, found by radix passes over keys, then over ids.

Scaling clips margins, so ties pile up at the lowest divergence and may be most of the corpus. Among ties the smaller
id comes first, so the ids of the ties are counted by their bytes like the keys by their bits. What is left of a
range is gathered and sorted as soon as it is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.errors import UserError
from pdray.selection.groups import GroupCounts, count_groups
from pdray.selection.guess import MOST_INSIDE, Bracket
from pdray.selection.order import Ordering
from pdray.selection.radix import (
    DIGIT_BITS,
    DIGITS,
    ID_DIGITS,
    NOT_FINITE,
    common_prefix,
    digit_bytes,
    digit_counts,
    id_digit_counts,
    locate,
)

GATHERED = 65_536
LEVELS = 64 // DIGIT_BITS


@dataclass(frozen=True)
class Cut:
    """Which pairs are kept: those with smaller bits, and of those with the same bits the ids up to ``last_id``.

    Attributes:
        bits: of the key of the last pair that is kept.
        last_id: its id; None keeps all pairs with these bits.
    """

    bits: int
    last_id: str | None

    def keeps(self, bits: np.ndarray, ids: pa.Array, groups: pa.Array | None = None) -> np.ndarray:
        """Which of n pairs are kept, (n,) bool, whatever their groups."""
        kept = bits <= np.uint64(self.bits)
        if self.last_id is not None:
            tied = np.flatnonzero(bits == np.uint64(self.bits))
            kept[tied] = pc.less_equal(ids.take(pa.array(tied)), self.last_id).to_numpy(zero_copy_only=False)
        return kept


@dataclass(frozen=True)
class GroupCuts:
    """Which pairs are kept where each group has a budget of its own; none of a group that has no cut."""

    cuts: Mapping[str, Cut]

    def keeps(self, bits: np.ndarray, ids: pa.Array, groups: pa.Array | None) -> np.ndarray:
        """Which of n pairs are kept, (n,) bool; ``groups`` are the names of theirs."""
        assert groups is not None
        kept = np.zeros(len(bits), bool)
        for name, cut in self.cuts.items():
            inside = np.flatnonzero(pc.equal(groups, name).to_numpy(zero_copy_only=False))
            kept[inside] = cut.keeps(bits[inside], ids.take(pa.array(inside)))
        return kept


class Ordered(Protocol):
    """Pairs in shards with keys as bits that sort alike; picklable. See :class:`~pdray.selection.order.Ordering`."""

    def bits(self, shard: int) -> np.ndarray: ...

    def between(self, shard: int, low: int, high: int, prefix: bytes = b"") -> tuple[np.ndarray, pa.Array]: ...


@dataclass(frozen=True)
class KeyDigits:
    """How often each digit follows some others among the keys, and the lowest and highest bits among those."""

    counts: np.ndarray
    lowest: int
    highest: int

    def __add__(self, other: KeyDigits) -> KeyDigits:
        return KeyDigits(self.counts + other.counts, min(self.lowest, other.lowest), max(self.highest, other.highest))


@dataclass(frozen=True)
class CountKeys:
    """A pass over the digits of the keys that are finite."""

    order: Ordered
    prefix: int
    level: int

    def __call__(self, shard: int) -> KeyDigits:
        return key_digits(self.order.bits(shard), self.prefix, self.level)


def key_digits(bits: np.ndarray, prefix: int, level: int) -> KeyDigits:
    """The digits of the keys of a shard that are finite and begin with ``prefix``; see :func:`digit_counts`."""
    bits = bits[bits != NOT_FINITE]
    if level:
        bits = bits[(bits >> np.uint64(64 - DIGIT_BITS * level)) == np.uint64(prefix)]
    if not len(bits):
        return KeyDigits(np.zeros(DIGITS, np.int64), int(NOT_FINITE), 0)
    return KeyDigits(digit_counts(bits, prefix, level), int(bits.min()), int(bits.max()))


@dataclass(frozen=True)
class CountGroups:
    """A pass that counts the pairs with a finite key in each group."""

    order: Ordering

    def __call__(self, shard: int) -> GroupCounts:
        groups = self.order.groups(shard)
        assert groups is not None and self.order.quota is not None
        (counts,) = count_groups(groups, self.order.bits(shard) != NOT_FINITE)
        return GroupCounts(self.order.quota, counts)


@dataclass(frozen=True)
class Rows:
    """Bits and ids of some pairs."""

    bits: np.ndarray
    ids: pa.Array

    def __add__(self, other: Rows) -> Rows:
        return Rows(np.concatenate([self.bits, other.bits]), pa.concat_arrays([self.ids, other.ids]))


@dataclass(frozen=True)
class Gather:
    """A pass that collects the few pairs between two keys whose ids begin with ``prefix``."""

    order: Ordered
    low: int
    high: int
    prefix: bytes = b""

    def __call__(self, shard: int) -> Rows:
        return Rows(*self.order.between(shard, self.low, self.high, self.prefix))


@dataclass(frozen=True)
class RowsAround:
    """The first digits of all keys, and the pairs around a bracket; see :class:`~pdray.selection.guess.Around`."""

    digits: KeyDigits
    below: int
    rows: Rows | None

    def __add__(self, other: RowsAround) -> RowsAround:
        rows = None
        if self.rows is not None and other.rows is not None:
            rows = self.rows + other.rows
        few = rows is not None and len(rows.bits) <= MOST_INSIDE
        return RowsAround(self.digits + other.digits, self.below + other.below, rows if few else None)

    def cut(self, wanted: int) -> Cut | None:
        """The cut after the ``wanted`` smallest pairs, None where it is not in the bracket."""
        if self.rows is None or not 0 < wanted - self.below <= len(self.rows.bits):
            return None
        return _gathered_cut(self.rows, wanted - self.below)


@dataclass(frozen=True)
class CountAround:
    """The first pass over the keys, which collects the pairs in a bracket as well."""

    order: Ordering
    bracket: Bracket

    def __call__(self, shard: int) -> RowsAround:
        bits = self.order.bits(shard)
        inside = self.bracket.holds(bits) & (bits != NOT_FINITE)
        ids = self.order.source.ids(shard).filter(pa.array(inside)) if inside.any() else pa.array([], pa.string())
        rows = Rows(bits[inside], ids) if inside.sum() <= MOST_INSIDE else None
        return RowsAround(key_digits(bits, 0, 0), int((bits < np.uint64(self.bracket.low)).sum()), rows)


@dataclass(frozen=True)
class IdBounds:
    """The smallest and the largest of some ids."""

    ends: list[bytes] = field(default_factory=list)

    def __add__(self, other: IdBounds) -> IdBounds:
        ends = sorted([*self.ends, *other.ends])
        return IdBounds([ends[0], ends[-1]] if ends else [])


@dataclass(frozen=True)
class BoundIds:
    """A pass over the ids of the pairs with one key."""

    order: Ordered
    bits: int
    prefix: bytes

    def __call__(self, shard: int) -> IdBounds:
        _, ids = self.order.between(shard, self.bits, self.bits, self.prefix)
        if not len(ids):
            return IdBounds()
        ends = pc.min_max(ids.view(pa.binary()))
        return IdBounds([ends["min"].as_py(), ends["max"].as_py()])


@dataclass(frozen=True)
class CountIds:
    """A pass over the two bytes that follow ``prefix`` in the ids of the pairs with one key."""

    order: Ordered
    bits: int
    prefix: bytes

    def __call__(self, shard: int) -> np.ndarray:
        _, ids = self.order.between(shard, self.bits, self.bits, self.prefix)
        return id_digit_counts(ids, len(self.prefix)) if len(ids) else np.zeros(ID_DIGITS, np.int64)


def radix_cut(
    order: Ordered, wanted: int, first: np.ndarray, run: Callable[[Any], Any], gathered: int = GATHERED
) -> Cut:
    """The cut after the ``wanted`` smallest pairs.

    Args:
        order: how the pairs are ordered.
        wanted: pairs to keep, from 1 to the number of finite ones.
        first: counts of the first digit of the keys.
        run: adds up a pass over all shards.
        gathered: most pairs that are collected in one place.
    """
    counts, prefix, rank = first, 0, wanted
    for level in range(1, LEVELS + 1):
        digit, rank = locate(counts, rank)
        prefix, count = (prefix << DIGIT_BITS) | digit, int(counts[digit])
        below = 64 - DIGIT_BITS * level
        low = prefix << below
        if count <= gathered:
            return _gathered_cut(run(Gather(order, low, low + (1 << below) - 1)), rank)
        if level == LEVELS:
            break
        found: KeyDigits = run(CountKeys(order, prefix, level))
        if found.lowest == found.highest:
            low = found.lowest
            break
        counts = found.counts
    return _tied_cut(order, low, rank, count, run, gathered)


def _gathered_cut(rows: Rows, rank: int) -> Cut:
    table = pa.table({"bits": rows.bits, "id": rows.ids})
    last = table.take(pc.sort_indices(table, [("bits", "ascending"), ("id", "ascending")])[rank - 1 : rank])
    return Cut(last["bits"][0].as_py(), last["id"][0].as_py())


def _tied_cut(order: Ordered, bits: int, rank: int, count: int, run: Callable[[Any], Any], gathered: int) -> Cut:
    """The cut among ``count`` pairs with one key, too many to collect."""
    if rank == count:
        return Cut(bits, None)
    prefix = b""
    while count > gathered:
        ends = run(BoundIds(order, bits, prefix)).ends
        prefix = common_prefix(ends[0], ends[-1])
        counts = run(CountIds(order, bits, prefix))
        digit, rank = locate(counts, rank)
        count = int(counts[digit])
        following, is_whole = digit_bytes(digit)
        prefix += following
        if is_whole:
            if count > 1:  # in a run, the corpus stage has set all but one of them aside
                raise UserError(f"{count:,} pairs have the id {prefix.decode()}; give each its own")
            return Cut(bits, prefix.decode())
    return _gathered_cut(run(Gather(order, bits, bits, prefix)), rank)
