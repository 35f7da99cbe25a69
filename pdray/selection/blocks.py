"""Pairs in Arrow tables outside a run, as the passes of the selection read them: a block stands for a shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.errors import UserError
from pdray.selection.cut import Cut
from pdray.selection.divergence import preference_divergence, scale_margins
from pdray.selection.order import Margins, one_array, within
from pdray.selection.radix import ordered_bits

ID, PD, ASPECT = "pair_id", "pd", "aspect"
MARGIN, CHOSEN, REJECTED = "margin.", "reward_chosen.", "reward_rejected."


def aspects_of(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The aspects that columns have margins or rewards of, sorted, and the columns that these are read from.

    Raises:
        UserError: there are none, or the label of the pairs is missing.
    """
    present = set(names)
    aspects = sorted(name.removeprefix(MARGIN) for name in present if name.startswith(MARGIN))
    columns = [f"{MARGIN}{aspect}" for aspect in aspects]
    if not aspects:
        sides = [{name.removeprefix(side) for name in present if name.startswith(side)} for side in (CHOSEN, REJECTED)]
        aspects = sorted(sides[0] & sides[1])
        columns = [f"{side}{aspect}" for aspect in aspects for side in (CHOSEN, REJECTED)]
    if not aspects or ASPECT not in present:
        raise UserError(
            f"the pairs have the columns {', '.join(sorted(present)) or 'none'}; needed are {ASPECT}, the label of "
            f"each pair, and {MARGIN}<aspect>, or {CHOSEN}<aspect> and {REJECTED}<aspect>, of every aspect"
        )
    return aspects, columns


@dataclass(frozen=True)
class BlockMargins:
    """Margins of pairs in blocks; picklable, read in workers.

    Attributes:
        blocks: Arrow tables, or Ray's references to such.
        aspects: sorted.
    """

    blocks: list[Any]
    aspects: list[str]

    @property
    def num_shards(self) -> int:
        """Blocks."""
        return len(self.blocks)

    @property
    def penalties(self) -> dict[str, float]:
        """Aspect -> ρ: margins are taken as they are."""
        return dict.fromkeys(self.aspects, 0.0)

    def margins(self, shard: int) -> Margins:
        """The margins of every pair of a block."""
        return margins_of(_block(self.blocks, shard), self.aspects)


def margins_of(pairs: pa.Table, aspects: list[str]) -> Margins:
    """Labels and margins of some pairs; NaN where one is null.

    Raises:
        UserError: a label is none of the aspects, or a column holds no numbers.
    """
    own = pc.index_in(pairs[ASPECT].cast(pa.string()), value_set=pa.array(aspects, pa.string()))
    if own.null_count:
        label = pairs[ASPECT].filter(pc.is_null(own))[0].as_py()
        raise UserError(f"a pair has the {ASPECT} {label!r}, but there are margins of {', '.join(aspects)} only")
    values = []
    for aspect in aspects:
        if f"{MARGIN}{aspect}" in pairs.column_names:
            values.append(_numbers(pairs, f"{MARGIN}{aspect}").astype(np.float32))
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            difference = _numbers(pairs, f"{CHOSEN}{aspect}") - _numbers(pairs, f"{REJECTED}{aspect}")
            values.append(difference.astype(np.float32))
    return Margins(own.to_numpy().astype(np.int64), values)


def with_divergence(pairs: pa.Table, quantiles: Mapping[str, float], weights: list[float] | None) -> pa.Table:
    """Pairs with their column ``pd`` (eq. 14 and 15)."""
    margins = margins_of(pairs, list(quantiles))
    scaled = [scale_margins(one, quantile) for one, quantile in zip(margins.values, quantiles.values(), strict=True)]
    found = preference_divergence(np.stack(scaled, axis=1), margins.own, weights)
    return pairs.append_column(PD, pa.array(found, pa.float64()))


@dataclass(frozen=True)
class BlockOrder:
    """Pairs in blocks, ordered by ``pd``, then by ``pair_id``; see :class:`~pdray.selection.order.Ordering`.

    Attributes:
        blocks: Arrow tables, or Ray's references to such.
    """

    blocks: list[Any]

    def bits(self, shard: int) -> np.ndarray:
        """Of each pair (n,) uint64 that sort as its divergence does."""
        return key_bits(_block(self.blocks, shard))

    def between(self, shard: int, low: int, high: int, prefix: bytes = b"") -> tuple[np.ndarray, pa.Array]:
        """Bits and ids of the pairs whose bits lie in [low, high] and whose id begins with ``prefix``."""
        pairs = _block(self.blocks, shard)
        return within(key_bits(pairs), lambda: ids_of(pairs), low, high, prefix)


@dataclass(frozen=True)
class CountKept:
    """A pass that counts the pairs that a cut keeps."""

    order: BlockOrder
    cut: Cut

    def __call__(self, shard: int) -> int:
        return len(kept_of(_block(self.order.blocks, shard), self.cut))


def kept_of(pairs: pa.Table, cut: Cut | None) -> pa.Table:
    """The pairs that a cut keeps; none without a cut."""
    if cut is None:
        return pairs.slice(0, 0)
    return pairs.filter(pa.array(cut.keeps(key_bits(pairs), ids_of(pairs))))


def key_bits(pairs: pa.Table) -> np.ndarray:
    """Of each pair (n,) uint64 that sort as its divergence does; null counts as NaN."""
    return ordered_bits(_numbers(pairs, PD) + 0.0)  # never -0.0


def ids_of(pairs: pa.Table) -> pa.Array:
    """``pair_id`` of each pair, n strings.

    Raises:
        UserError: one is null.
    """
    ids = one_array(pairs[ID].cast(pa.string()))
    if ids.null_count:
        raise UserError(f"a pair has no {ID}; give each its own")
    return ids


def _numbers(pairs: pa.Table, name: str) -> np.ndarray:
    try:
        numbers: np.ndarray = pairs[name].cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        raise UserError(f"the column {name} holds {pairs[name].type} values, but numbers are needed") from None
    return numbers


def _block(blocks: list[Any], number: int) -> pa.Table:
    block = blocks[number]
    if isinstance(block, pa.Table):
        return block
    import ray

    found: pa.Table = ray.get(block)
    return found
