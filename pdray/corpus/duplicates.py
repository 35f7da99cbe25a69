"""Which of several rows with one ``pair_id`` stays: the one with the smallest digest of its content.

Inside a shard this needs no one else. Across shards one exchange of narrow rows settles it, and only the losers come
out of it; they travel to their shards in the shuffle that brings the pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.corpus.check import checked_schema, pair_schema
from pdray.corpus.exchange import gathered, map_blocks, map_rows, num_partitions
from pdray.corpus.rows import RowRules
from pdray.hashing import digest, hash64
from pdray.runtime import living

SHARD = "shard"
PART = "part"
BYTES_PER_ID = 1000  # in the hash tables of a group by


def placed_schema(rules: RowRules) -> pa.Schema:
    """The checked schema and the shard of each row."""
    return checked_schema(rules).append(pa.field(SHARD, pa.int32()))


def winners(pairs: pa.Table, rules: RowRules, lost: set[str]) -> np.ndarray:
    """Which pairs of a shard stay.

    Args:
        pairs: all of the shard, in any order.
        rules: of the corpus.
        lost: ids whose winner is in another shard.

    Returns:
        (n,) bool; of equal rows one stays.
    """
    ids = pairs["pair_id"].to_pylist()
    stays = np.array([pair_id not in lost for pair_id in ids], dtype=bool)
    repeated = {pair_id for pair_id, count in Counter(ids).items() if count > 1}
    rows = [row for row, pair_id in enumerate(ids) if pair_id in repeated]
    best: dict[str, tuple[str, int]] = {}
    for row, content in zip(rows, content_digests(pairs.take(pa.array(rows, pa.int64())), rules), strict=True):
        best[ids[row]] = min(best.get(ids[row], (content, row)), (content, row))
    for row in rows:
        stays[row] &= best[ids[row]][1] == row
    return stays


def content_digests(pairs: pa.Table, rules: RowRules) -> list[str]:
    """A digest of each pair without its id. Every column counts: rows that differ must not be told apart by order."""
    names = sorted({*pair_schema(rules).names, "repeated_prompt"} - {"pair_id"})
    columns = [pairs[name].to_pylist() for name in names]
    return [digest(json.dumps(values, sort_keys=True)) for values in zip(*columns, strict=True)]


def losers_across_shards(placed: Any, rules: RowRules, shards: pa.Array, num_rows: int) -> Any:
    """Find the ids that lost to a row in another shard.

    Args:
        placed: Ray Data set of checked rows with their ``shard``.
        rules: of the corpus.
        shards: where the losers are looked for; all of them may hold winners.
        num_rows: in it.

    Returns:
        Ray Data set of the same schema: ``pair_id`` and ``shard`` of each loser, nothing else filled.
    """
    num_bytes = num_rows * BYTES_PER_ID
    parts = num_partitions(num_bytes, living("CPU"))
    narrow = map_rows(placed, _narrow, rules=rules, parts=parts)
    by_part = gathered(narrow, PART, parts, num_bytes)
    return map_blocks(by_part, find_losers, schema=placed_schema(rules), shards=shards)


def _narrow(rows: pa.Table, rules: RowRules, parts: int) -> pa.Table:
    pairs = rows.filter(pc.is_null(rows["reason"]))
    part = hash64(pairs["pair_id"].to_pylist(), "part") % np.uint64(parts)
    return pa.table(
        {
            "pair_id": pairs["pair_id"],
            "content": pa.array(content_digests(pairs, rules), pa.string()),
            SHARD: pairs[SHARD],
            PART: pa.array(part.astype(np.int32)),
        }
    )


def find_losers(rows: pa.Table, schema: pa.Schema, shards: pa.Array) -> pa.Table:
    """The ids of a part that lost in some shards, by ``pair_id``, ``content`` and ``shard``; other columns are null."""
    best = rows.group_by(["pair_id", SHARD]).aggregate([("content", "min")])
    over_shards = best.group_by("pair_id").aggregate([("content_min", "min"), (SHARD, "count")])
    shared = over_shards.filter(pc.greater(over_shards["shard_count"], 1))
    if not len(shared):
        return schema.empty_table()
    place = pc.index_in(best["pair_id"], shared["pair_id"].combine_chunks())
    contested = best.append_column("winner", shared["content_min_min"].take(place))
    is_loser = pc.not_equal(contested["content_min"], contested["winner"])
    lost = contested.filter(pc.and_(is_loser, pc.is_in(contested[SHARD], shards)))
    filled = {"pair_id": lost["pair_id"], SHARD: lost[SHARD]}
    return pa.table([filled.get(field.name, pa.nulls(len(lost), field.type)) for field in schema], schema=schema)
