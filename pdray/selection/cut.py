"""The global order of the pairs and the exact cut, by a distributed sort of narrow columns.

Ray Data's sort partitions by range but promises no order of its output blocks downstream. So the blocks are put in
order by their own first keys, and a row's rank is the rows in the blocks before it plus its place in its block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TIE_BREAK = "pair_id"


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


def sorted_blocks(dataset: Any, key: str) -> list[SortedBlock]:
    """Sort a Ray Data set by (key, pair_id) and return its blocks in the global order.

    Args:
        dataset: rows with ``key`` (no null, no NaN) and a unique ``pair_id``.
        key: ascending sort column.
    """
    import ray

    refs = dataset.sort([key, TIE_BREAK]).materialize().to_arrow_refs()
    ends = ray.get([ray.remote(_ends).remote(ref, key) for ref in refs])
    filled = sorted((first, last, rows, i) for i, (first, last, rows) in enumerate(ends) if rows)
    blocks, offset = [], 0
    for (_first, last, rows, i), following in zip(filled, [*filled[1:], None], strict=True):
        assert following is None or last <= following[0], "sorted blocks overlap"
        blocks.append(SortedBlock(refs[i], offset, rows))
        offset += rows
    return blocks


def _ends(block: pa.Table, key: str) -> tuple[Any, Any, int]:
    if not len(block):
        return None, None, 0
    edges = block.select([key, TIE_BREAK]).take([0, len(block) - 1]).to_pylist()
    first, last = (tuple(edge.values()) for edge in edges)
    return first, last, len(block)
