"""Token ids of the texts of used pairs, shard by shard; for proxies of which all weights are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.errors import UserError
from pdray.proxies.features import RowsOfPairs
from pdray.runtime.tasks import run_tasks
from pdray.shards import Outcome, ShardedFolder, error_text
from pdray.texts import read_texts
from pdray.tokens import TextEncoder, TokenRule, count_unknown

ENCODED = "encoded"
SCHEMA = pa.schema(
    [("row", pa.int32()), ("ids", pa.list_(pa.int32())), ("num_tokens", pa.int32()), ("truncated", pa.bool_())]
)
SHARD_SECONDS = 1800.0


@dataclass(frozen=True)
class EncodeJob:
    """How the texts of a shard are encoded; picklable.

    Attributes:
        base_model: folder of the tokenizer.
        rule: how a text is cut.
        corpus: read.
        target: written.
        rows: which texts.
    """

    base_model: str
    rule: TokenRule
    corpus: ShardedFolder
    target: ShardedFolder
    rows: RowsOfPairs

    def attempt(self, shards: Sequence[int]) -> Iterator[Outcome]:
        """Encode some shards in Ray tasks, for :func:`pdray.shards.run_rounds`."""
        jobs: Iterable[tuple[Any, ...]] = ((self, shard, self.rows.rows_of(shard)) for shard in shards)
        return (outcome for _, outcome in run_tasks(encode_shard, jobs, SHARD_SECONDS))


def encode_shard(job: EncodeJob, shard: int, rows: np.ndarray) -> Outcome:
    """Encode the texts of one shard and write them with their marker.

    Raises:
        UserError: the rule or the tokenizer does not allow it.
    """
    from pdray.proxies.base import load_tokenizer

    try:
        encoder = TextEncoder(load_tokenizer(job.base_model), job.rule)
        texts = read_texts(job.corpus, shard, rows)
        encoded = encoder.encode(texts["prompt"].to_pylist(), texts["response"].to_pylist())
        columns = [rows, encoded.ids, encoded.num_tokens, encoded.truncated]
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
        unknown, tokens = count_unknown(encoder.tokenizer, [arrays[1]])
        facts = {"truncated": int(sum(encoded.truncated)), "unknown": unknown, "tokens": tokens}
        job.target.write(shard, {ENCODED: pa.Table.from_arrays(arrays, schema=SCHEMA)}, int(rows.sum()), facts)
    except UserError:
        raise
    except Exception as error:
        return Outcome(shard, error_text(error))
    return Outcome(shard)


def read_encoded(encoded: ShardedFolder, pairs: pa.Table) -> pa.Table:
    """The encoded texts of some pairs: ``pair_id``, ``chosen_ids``, ``rejected_ids`` and ``length_difference``.

    Args:
        encoded: the shards that were written.
        pairs: a table of :func:`pdray.proxies.pairs.candidates`.
    """
    shards = pairs["shard"].to_numpy()
    parts = []
    for shard in np.unique(shards).tolist():
        here = pairs.filter(pa.array(shards == shard))
        texts = encoded.read(ENCODED, shard)
        known = texts["row"].to_numpy()
        chosen, rejected = (
            texts.take(pa.array(np.searchsorted(known, here[f"{side}_row"].to_numpy())))
            for side in ("chosen", "rejected")
        )
        difference = np.subtract(chosen["num_tokens"].to_numpy(), rejected["num_tokens"].to_numpy(), dtype=np.int64)
        parts.append(
            pa.table(
                {
                    "pair_id": here["pair_id"],
                    "chosen_ids": chosen["ids"],
                    "rejected_ids": rejected["ids"],
                    "length_difference": difference,
                }
            )
        )
    return pa.concat_tables(parts).sort_by("pair_id").combine_chunks()
