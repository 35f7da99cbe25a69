"""Ranks, and the cut by position, from Ray Data's distributed sort of narrow columns; few rows are sorted in one task.

Ray Data's sort partitions by range but promises no order of its output blocks downstream. So the blocks are put in
order by their own first keys, and a row's rank is the rows in the blocks before it plus its place in its block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.errors import user_errors
from pdray.runtime import remote
from pdray.runtime.tasks import RETRIES, finished, shard_groups
from pdray.schema import RANKED
from pdray.selection.cut import Cut, GroupCuts
from pdray.selection.order import Ordering
from pdray.selection.radix import NOT_FINITE, ordered_bits
from pdray.storage import StoragePath

FOLDER = "ranked"
KEY, TIE_BREAK = "key", "pair_id"
SHARDS_PER_BLOCK = 128
SPLIT_BYTES = 128 * 2**20  # that a task of the shuffle holds twice; Ray gathers a GiB
FEW = 1_000_000  # rows; one task sorts so many sooner than Ray starts the workers of a shuffle


@dataclass(frozen=True)
class SortedBlock:
    """A block of the global order.

    Attributes:
        ref: reference to the Arrow table, sorted.
        offset: rows in all blocks before it.
        rows: rows in it.
    """

    ref: Any
    offset: int
    rows: int


def sorted_pairs(order: Ordering, cut: Cut | GroupCuts | None = None) -> list[SortedBlock]:
    """The pairs with a finite divergence, sorted by the strategy's key and ``pair_id``.

    Args:
        order: how the pairs are ordered.
        cut: only the pairs that it keeps; None takes all.

    Returns:
        blocks of ``key``, ``pair_id`` and ``pd`` in the global order.
    """
    import ray
    from ray.data import from_arrow_refs

    narrow = remote(_narrow, max_retries=RETRIES, retry_exceptions=[OSError])
    groups = shard_groups(order.num_shards, SHARDS_PER_BLOCK)
    with user_errors():
        refs = [narrow.remote(order, cut, group) for group in groups]
        rows = sum(ray.get([remote(_num_rows, max_retries=RETRIES).remote(ref) for ref in refs]))
        if rows <= FEW:
            return [SortedBlock(remote(_sorted, max_retries=RETRIES).remote(*refs), 0, rows)] if rows else []
        dataset = from_arrow_refs(refs)
        dataset.context.shuffle_input_batch_bytes = SPLIT_BYTES
        refs = dataset.sort([KEY, TIE_BREAK]).materialize().to_arrow_refs()
        ends = ray.get([remote(_ends, max_retries=RETRIES).remote(ref) for ref in refs])
    filled = sorted((first, last, rows, i) for i, (first, last, rows) in enumerate(ends) if rows)
    blocks, offset = [], 0
    for (_first, last, rows, i), following in zip(filled, [*filled[1:], None], strict=True):
        assert following is None or last <= following[0], "sorted blocks overlap"
        blocks.append(SortedBlock(refs[i], offset, rows))
        offset += rows
    return blocks


def cut_by_position(blocks: list[SortedBlock], wanted: int) -> Cut:
    """The cut after the first ``wanted`` pairs of the global order."""
    import ray

    block = next(block for block in blocks if block.offset < wanted <= block.offset + block.rows)
    key, last_id = ray.get(remote(_row, max_retries=RETRIES).remote(block.ref, wanted - 1 - block.offset))
    return Cut(int(ordered_bits(np.array([key]))[0]), last_id)


def write_ranks(blocks: list[SortedBlock], folder: StoragePath) -> int:
    """Write ``ranked/part-00000.parquet`` and so on, ranks from 1; what an earlier attempt left is replaced.

    Returns:
        rows written.
    """
    import ray

    (folder / FOLDER).delete()
    calls = [
        (block.ref, block.offset, folder / FOLDER / f"part-{index:05}.parquet") for index, block in enumerate(blocks)
    ]
    return sum(ray.get(ref) for _, ref in finished(_write_block, calls))


def _narrow(order: Ordering, cut: Cut | GroupCuts | None, shards: list[int]) -> pa.Table:
    return pa.concat_tables([_narrow_shard(order, cut, shard) for shard in shards])


def _narrow_shard(order: Ordering, cut: Cut | GroupCuts | None, shard: int) -> pa.Table:
    _, divergence = order.divergence(shard)
    keys, ids = order.keys(shard, divergence), order.source.ids(shard)
    bits = ordered_bits(keys)
    taken = pa.array(bits != NOT_FINITE if cut is None else cut.keeps(bits, ids, order.groups(shard)))
    return pa.table({KEY: keys, TIE_BREAK: ids, "pd": divergence}).filter(taken)


def _num_rows(block: pa.Table) -> int:
    return len(block)


def _sorted(*blocks: pa.Table) -> pa.Table:
    return pa.concat_tables(blocks).sort_by([(KEY, "ascending"), (TIE_BREAK, "ascending")])


def _ends(block: pa.Table) -> tuple[Any, Any, int]:
    if not len(block):
        return None, None, 0
    return _row(block, 0), _row(block, len(block) - 1), len(block)


def _row(block: pa.Table, position: int) -> tuple[float, str]:
    return block[KEY][position].as_py(), block[TIE_BREAK][position].as_py()


def _write_block(block: pa.Table, offset: int, path: StoragePath) -> int:
    ranks = np.arange(offset + 1, offset + 1 + len(block), dtype=np.int64)
    path.write_table(block.select([TIE_BREAK, "pd"]).append_column("rank", pa.array(ranks)).cast(RANKED))
    return len(block)
