"""Facts about a folder of parquet files that do not depend on how its rows lie in files."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pdray.hashing import hash64

HASH_RANGE = 2**64
HASH_SALT = "scores"


class Place(NamedTuple):
    """Where a sampled row lies; sorts by the hash of its pair_id."""

    hash: int
    pair_id: str
    path: str
    row: int


@dataclass(frozen=True)
class IdSurvey:
    """The rows of a folder.

    Attributes:
        rows: number of rows.
        ids_sum: sum of the 64-bit hashes of all ``pair_id``, modulo 2^64: equal for equal multisets of ids.
        sample: the rows with the smallest hashes, the same for any split into files.
    """

    rows: int
    ids_sum: int
    sample: list[Place]


def survey_ids(folder: Path, num_sampled: int = 0) -> IdSurvey:
    """Count and hash the ``pair_id`` column of every parquet file in a folder, one Ray task per file."""
    import ray

    task = ray.remote(_survey_file)
    found = ray.get([task.remote(str(path), num_sampled) for path in parquet_files(folder)])
    return IdSurvey(
        rows=sum(one.rows for one in found),
        ids_sum=sum(one.ids_sum for one in found) % HASH_RANGE,
        sample=heapq.nsmallest(num_sampled, (place for one in found for place in one.sample)),
    )


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder, sorted."""
    return sorted(Path(folder).glob("*.parquet"))


def _survey_file(path: str, num_sampled: int) -> IdSurvey:
    rows = ids_sum = 0
    sample: list[Place] = []
    for batch in pq.ParquetFile(path).iter_batches(columns=["pair_id"]):
        hashes = hash64(batch["pair_id"].to_pylist(), HASH_SALT)
        candidates = np.argsort(hashes, kind="stable")[:num_sampled].tolist()
        places = (Place(int(hashes[i]), batch["pair_id"][i].as_py(), path, rows + i) for i in candidates)
        sample = heapq.nsmallest(num_sampled, [*sample, *places])
        ids_sum = (ids_sum + int(hashes.sum(dtype=np.uint64))) % HASH_RANGE
        rows += len(hashes)
    return IdSurvey(rows, ids_sum, sample)


def read_places(places: list[Place], columns: list[str]) -> pa.Table:
    """The sampled rows, in the order given; reads only the row groups that hold them."""
    tables = []
    for place in places:
        file = pq.ParquetFile(place.path)
        group, row = _row_group(file, place.row)
        # A slice would keep the whole row group in memory.
        tables.append(file.read_row_group(group, columns=columns).take([row]))
    return pa.concat_tables(tables)


def _row_group(file: Any, row: int) -> tuple[int, int]:
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return group, row
        row -= rows
    raise AssertionError("the row is not in the file")
