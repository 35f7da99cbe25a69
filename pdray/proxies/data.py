"""From the encoded pairs of one aspect to the tables that its trainer reads: drawn and given their margins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.config import ProxiesConfig
from pdray.proxies import length
from pdray.proxies.encoded import read_encoded
from pdray.proxies.pairs import AspectPairs
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

TRAIN, HELD_OUT, BASELINE = "train", "held_out", "baseline"


@dataclass(frozen=True)
class TablesJob:
    """What is needed to prepare the tables of one aspect.

    Attributes:
        pairs: which pairs.
        encoded: their texts.
        folder: where the tables go.
        proxies: the settings of the stage.
        seed: seed of the run.
    """

    pairs: AspectPairs
    encoded: ShardedFolder
    folder: StoragePath
    proxies: ProxiesConfig
    seed: int


def write_tables(job: TablesJob) -> dict[str, StoragePath]:
    """Write a table per use: ``train``, ``held_out`` and, where it is trained, ``baseline``.

    A table has the columns ``chosen_ids``, ``rejected_ids`` (token ids), ``margin`` (what the loss subtracts) and
    ``length_difference`` (tokens of the whole responses). A trainer takes no weights, so balanced sampling repeats
    pairs.

    Returns:
        the file of each use.
    """
    train, held_out = (read_encoded(job.encoded, pairs) for pairs in (job.pairs.train, job.pairs.held_out))
    tables = {TRAIN: _drawn(job, train, remedies=True), HELD_OUT: _with_margin(held_out, np.zeros(len(held_out)))}
    if trains_baseline(job.proxies):
        tables[BASELINE] = _drawn(job, train, remedies=False)
    paths = {name: job.folder / f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        paths[name].write_table(table)
    return paths


def trains_baseline(proxies: ProxiesConfig) -> bool:
    """Whether a proxy without length remedies is trained too: only where there is a remedy to compare it with."""
    return proxies.length_baseline and (proxies.balance_temperature is not None or proxies.length_penalty > 0)


def _drawn(job: TablesJob, table: pa.Table, remedies: bool) -> pa.Table:
    proxies = job.proxies
    temperature, penalty = (proxies.balance_temperature, proxies.length_penalty) if remedies else (None, 0.0)
    difference = table["length_difference"].to_numpy()
    rows = length.draw(table["pair_id"].to_pylist(), difference, len(table), temperature, job.seed)
    margin = length.training_margin(difference, penalty, proxies.length_penalty_form)
    return _with_margin(table.take(pa.array(rows)), margin[rows])


def _with_margin(table: pa.Table, margin: np.ndarray) -> pa.Table:
    return table.drop_columns(["pair_id"]).append_column("margin", pa.array(margin, pa.float64()))
