"""From the pairs of one aspect to what its proxy trains on: encoded, split, drawn and given their margins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import length
from pdray.proxies.base import load_tokenizer
from pdray.tokens import PairEncoder, check_unknown_tokens

COLUMNS = ["pair_id", "prompt", "chosen", "rejected"]
BATCH = 1024


@dataclass(frozen=True)
class AspectJob:
    """What is needed to prepare one aspect.

    Attributes:
        aspect: its name.
        pairs: folder of the corpus' parquet files.
        folder: where the tables of this aspect go.
        proxies: the settings of the stage.
        keep_prompt: side of a long prompt that survives, the same as in scoring.
        max_unknown_tokens: largest share of tokens that the tokenizer may not know.
        seed: seed of the run.
    """

    aspect: str
    pairs: Path
    folder: Path
    proxies: ProxiesConfig
    keep_prompt: Any
    max_unknown_tokens: float
    seed: int


@dataclass(frozen=True)
class Prepared:
    """What was prepared of one aspect.

    Attributes:
        pairs: pairs of the aspect in the corpus.
        used: different pairs among those drawn and held out.
        train_pairs: draws, repeated ones counted as often as they were drawn.
        held_out_pairs: pairs kept for evaluation.
        truncated: pairs of which something was cut off.
        tables: file of each table: ``train``, ``held_out`` and, where it is trained, ``baseline``.
    """

    pairs: int
    used: int
    train_pairs: int
    held_out_pairs: int
    truncated: int
    tables: dict[str, str]


def prepare_aspect(job: AspectJob, counter: Any) -> Prepared:
    """Encode the pairs of an aspect, then :func:`divide` them; the counter gets the pairs encoded.

    Raises:
        UserError: too few pairs to train on and to hold out, or a tokenizer that does not know their words.
    """
    return divide(job, encode_aspect(job, counter))


def divide(job: AspectJob, table: pa.Table) -> Prepared:
    """Split and draw the encoded pairs of an aspect, and write one table per use.

    A table has the columns ``chosen_ids``, ``rejected_ids`` (token ids), ``margin`` (what the loss subtracts) and
    ``length_difference`` (tokens of the whole responses).

    Raises:
        UserError: too few pairs to train on and to hold out.
    """
    proxies = job.proxies
    pair_ids = table["pair_id"].to_pylist()
    difference = table["length_difference"].to_numpy()
    train, held_out = length.split_held_out(pair_ids, proxies.held_out, job.seed)
    count = int(proxies.share * len(train) + 0.5)
    _check_enough(job, len(pair_ids), count, len(held_out))

    def draw(temperature: float | None) -> np.ndarray:
        train_ids = [pair_ids[index] for index in train]
        drawn: np.ndarray = train[length.draw(train_ids, difference[train], count, temperature, job.seed)]
        return drawn

    margin = length.training_margin(difference, proxies.length_penalty, proxies.length_penalty_form)
    uses = {"train": (draw(proxies.balance_temperature), margin), "held_out": (held_out, np.zeros_like(margin))}
    if trains_baseline(proxies):
        uses["baseline"] = (draw(None), np.zeros_like(margin))
    used = np.unique(np.concatenate([uses["train"][0], held_out]))
    return Prepared(
        pairs=len(pair_ids),
        used=len(used),
        train_pairs=count,
        held_out_pairs=len(held_out),
        truncated=int(pc.sum(table["truncated"].take(pa.array(used))).as_py()),
        tables={name: _write_use(job, table, name, rows, margins) for name, (rows, margins) in uses.items()},
    )


def trains_baseline(proxies: ProxiesConfig) -> bool:
    """Whether a proxy without length remedies is trained too: only where there is a remedy to compare it with."""
    return proxies.length_baseline and (proxies.balance_temperature is not None or proxies.length_penalty > 0)


def encode_aspect(job: AspectJob, counter: Any = None) -> pa.Table:
    """Token ids and lengths of every pair of an aspect, read in batches; rows sorted by ``pair_id``.

    Raises:
        UserError: the tokenizer knows too few of the words.
    """
    assert job.proxies.base_model is not None
    encoder = PairEncoder(load_tokenizer(job.proxies.base_model), job.proxies.max_tokens, job.keep_prompt)
    dataset = ds.dataset(job.pairs, format="parquet")
    batches = dataset.to_batches(columns=COLUMNS, filter=ds.field("aspect") == job.aspect, batch_size=BATCH)
    tables = []
    for batch in batches:
        if batch.num_rows:
            tables.append(_encode_batch(encoder, batch))
            if counter is not None:
                counter.add(batch.num_rows)
    table = pa.concat_tables(tables).sort_by("pair_id").combine_chunks()
    check_unknown_tokens(encoder.tokenizer, [table["chosen_ids"], table["rejected_ids"]], job.max_unknown_tokens)
    return table


def _encode_batch(encoder: PairEncoder, batch: pa.RecordBatch) -> pa.Table:
    prompts, chosen, rejected = (batch[name].to_pylist() for name in COLUMNS[1:])
    encoded = encoder.encode(prompts, chosen, rejected)
    ids = pa.list_(pa.int32())
    return pa.table(
        {
            "pair_id": batch["pair_id"].cast(pa.string()),
            "chosen_ids": pa.array(encoded.chosen_ids, ids),
            "rejected_ids": pa.array(encoded.rejected_ids, ids),
            "length_difference": pa.array(np.subtract(encoded.len_chosen, encoded.len_rejected), pa.int64()),
            "truncated": pa.array(encoded.truncated, pa.bool_()),
        }
    )


def _check_enough(job: AspectJob, pairs: int, count: int, held_out: int) -> None:
    if count >= 2 and held_out >= 1:
        return
    raise UserError(
        f"the aspect {job.aspect!r} has {pairs} pairs, which leaves {count} to train on and {held_out} held out, but "
        "a proxy needs at least 2 and 1; add pairs, raise proxies.share, change proxies.held_out, or leave the aspect "
        "out of corpus.aspects"
    )


def _write_use(job: AspectJob, table: pa.Table, name: str, rows: np.ndarray, margin: np.ndarray) -> str:
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / f"{name}.parquet"
    columns = table.select(["chosen_ids", "rejected_ids", "length_difference"]).take(pa.array(rows))
    pq.write_table(columns.append_column("margin", pa.array(margin[rows])), path)
    return str(path)
