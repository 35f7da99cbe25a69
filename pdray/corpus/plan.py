"""The shard plan: which rows go to which shard. Decided once for a corpus, from its rows and never from their order."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pdray.corpus.summary import BUCKETS, Summary, buckets
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.storage import StoragePath

PLAN = "plan.json"
SPLIT_AT = 2.0  # a bucket of more than so many shards' texts is split: a prompt may not make one endless shard


@dataclass(frozen=True)
class ShardPlan:
    """Where every row goes, and what of the whole corpus a shard has to know.

    Buckets are the first bits of the hash of a prompt, so all pairs of a prompt share their shard. Only a bucket that
    is too large for one, as a corpus of a single prompt is, is split by ``pair_id``.

    Attributes:
        runs: [first bucket, shards] of consecutive buckets, in order, from bucket 0 on.
        rows: rows read, good and bad.
        spans: largest minus smallest true rating, by aspect.
        given_ids: whether two shards may hold the same ``pair_id``.
        texts_per_shard: distinct texts aimed at.
        responses: rows read and rows that repeat their prompt, where rows are responses.
    """

    runs: list[list[int]]
    rows: int
    spans: dict[str, float]
    given_ids: bool
    texts_per_shard: int
    responses: list[int] | None = None

    @property
    def num_shards(self) -> int:
        """S."""
        return sum(shards for _, shards in self.runs)

    def shards_of(self, places: np.ndarray, pair_ids: list[str | None]) -> np.ndarray:
        """The shard of each row.

        Args:
            places: (n,) uint64, see :func:`~pdray.corpus.check.checked_schema`.
            pair_ids: n, None for a row that is no pair.

        Returns:
            (n,) int32.
        """
        starts, counts = np.array(self.runs, dtype=np.int64).T
        run = np.searchsorted(starts, buckets(places), side="right") - 1
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        shards = first[run]
        split = np.flatnonzero(counts[run] > 1)
        if len(split):
            keys = [pair_ids[row] or str(places[row]) for row in split.tolist()]
            shards[split] += (hash64(keys, "split") % counts[run[split]].astype(np.uint64)).astype(np.int64)
        return shards.astype(np.int32)


def make_plan(
    summary: Summary, aspects: list[str], texts_per_shard: int, responses: list[int] | None = None
) -> ShardPlan:
    """Pack consecutive buckets into shards of about so many distinct texts.

    Args:
        summary: of the whole corpus.
        aspects: those with true ratings, sorted, as in the summary.
        texts_per_shard: distinct texts of a shard.
        responses: see :class:`ShardPlan`.
    """
    pairs = int(summary.pairs.sum())
    texts = summary.pairs * (summary.distinct_texts / max(pairs, 1))
    return ShardPlan(
        runs=pack(texts, texts_per_shard),
        rows=summary.rows,
        spans=dict(zip(aspects, summary.spans.tolist(), strict=True)),
        given_ids=summary.given_ids,
        texts_per_shard=texts_per_shard,
        responses=responses,
    )


def pack(texts: np.ndarray, texts_per_shard: int) -> list[list[int]]:
    """Runs of consecutive buckets for one shard each, and buckets on their own for several.

    Args:
        texts: (BUCKETS,) estimated distinct texts of each bucket.
        texts_per_shard: of a shard.

    Returns:
        [first bucket, shards] in order; see :class:`ShardPlan`.
    """
    assert len(texts) == BUCKETS
    runs: list[list[int]] = []
    filled = math.inf
    for bucket, count in enumerate(texts.tolist()):
        if count > SPLIT_AT * texts_per_shard:
            runs.append([bucket, math.ceil(count / texts_per_shard)])
            filled = math.inf
        elif filled + count > texts_per_shard and (count or filled == math.inf):
            runs.append([bucket, 1])
            filled = count
        else:
            filled += count
    return runs


def read_plan(folder: StoragePath) -> ShardPlan | None:
    """The plan that an earlier attempt recorded, None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / PLAN
    try:
        return ShardPlan(**path.read_json())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged; delete {folder} and run again") from None


def record_plan(folder: StoragePath, plan: ShardPlan) -> ShardPlan:
    """Record a plan unless there is one; the plan that counts."""
    value: dict[str, Any] = asdict(plan)
    (folder / PLAN).put_if_absent(json.dumps(value, sort_keys=True).encode())
    recorded = read_plan(folder)
    assert recorded is not None, "the plan was recorded"
    return recorded
