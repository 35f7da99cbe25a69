"""The blocks of a Ray Data set, for passes and shuffles that take them one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pdray.runtime.labels import remote

if TYPE_CHECKING:
    import pyarrow as pa

RETRIES = 3


def held_blocks(dataset: Any) -> tuple[list[Any], int]:
    """Run a data set; references to its Arrow blocks that hold rows, and how many rows these are.

    Ray leaves empty blocks without a schema, and its shuffle fails at a block whose schema is not the others'.
    """
    import ray

    blocks = dataset.materialize().to_arrow_refs()
    rows = remote(_num_rows, max_retries=RETRIES)
    counts = ray.get([rows.remote(block) for block in blocks])
    return [block for block, count in zip(blocks, counts, strict=True) if count], sum(counts)


def _num_rows(block: pa.Table) -> int:
    return len(block)
