"""The corpus' work on Ray Data: rows mapped in parts, and brought together by a key. A bounded task does either."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from pdray.corpus.lines import ROWS_PER_BLOCK

RETRIES = 3
PARTITION_BYTES = 128 * 2**20  # a task holds some three times its partition
PIECE_BYTES = 2**20  # of a partition from one task: Ray sends what packs to less than 100 kB through the driver's heap
SMALL_BYTES = 32 * 2**20  # one task writes so much sooner than Ray starts the workers of a shuffle


def map_blocks(dataset: Any, function: Callable[..., Any], **kwargs: Any) -> Any:
    """Hand each block of a Ray Data set to a function as a table; one that failed is tried again."""
    return dataset.map_batches(function, batch_format="pyarrow", fn_kwargs=kwargs, max_retries=RETRIES)


def map_rows(dataset: Any, function: Callable[..., pa.Table], **kwargs: Any) -> Any:
    """As :func:`map_blocks`, in parts of :data:`ROWS_PER_BLOCK` rows: as Python objects rows take ten times the memory.

    Ray's ``batch_size`` would do the same, but keeps a map from being one task with the read before it.
    """

    @functools.wraps(function)
    def in_parts(block: pa.Table, **kwargs: Any) -> Iterator[pa.Table]:
        for part in parts(block):
            yield function(part, **kwargs)

    return map_blocks(dataset, in_parts, **kwargs)


def parts(block: pa.Table) -> Iterator[pa.Table]:
    """The rows of a block in parts of :data:`ROWS_PER_BLOCK`, without a copy; one part of a block without rows."""
    for start in range(0, max(len(block), 1), ROWS_PER_BLOCK):
        yield block.slice(start, ROWS_PER_BLOCK)


def gathered(dataset: Any, key: str, partitions: int, num_bytes: int) -> Any:
    """Bring the rows of each key together.

    Args:
        dataset: Ray Data set.
        key: name of a column.
        partitions: how many blocks the answer has; each has all rows of some keys.
        num_bytes: of the data set.
    """
    if partitions == 1:
        return dataset.repartition(1)
    # Ray gathers a GiB of blocks before it splits them, in one task that holds as much twice.
    dataset.context.shuffle_input_batch_bytes = partition_bytes(num_bytes)
    return dataset.repartition(partitions, keys=[key])


def num_partitions(num_bytes: int, cpus: float) -> int:
    """Blocks to bring so many bytes together in, on so many CPUs."""
    if num_bytes < SMALL_BYTES:
        return 1
    size = partition_bytes(num_bytes)
    return max(num_bytes // size + 1, min(2 * int(cpus), size // PIECE_BYTES))


def partition_bytes(num_bytes: int) -> int:
    """How much of so many bytes a task brings together, and how much it splits.

    Beyond 16 GiB it grows by the square root, so that a task's piece of a partition keeps its size.
    """
    return max(PARTITION_BYTES, math.isqrt(num_bytes * PIECE_BYTES))
