"""From encoded pairs to the tables that a trainer reads: drawn, and given their margins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.config import ProxiesConfig
from pdray.proxies import length
from pdray.proxies.batches import even_draws
from pdray.proxies.encoded import read_encoded
from pdray.proxies.pairs import AspectPairs
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

TRAIN, BASELINE = "train", "baseline"


@dataclass(frozen=True)
class TablesJob:
    """What is needed to prepare the tables of one model.

    Attributes:
        members: the pairs of each aspect that it learns.
        encoded: their texts.
        folder: where the tables go.
        proxies: the settings of the stage.
        seed: seed of the run.
    """

    members: list[AspectPairs]
    encoded: ShardedFolder
    folder: StoragePath
    proxies: ProxiesConfig
    seed: int

    @property
    def draws(self) -> list[int]:
        """Rows of each aspect in a table."""
        return even_draws([len(one.train) for one in self.members])

    @property
    def uses(self) -> list[str]:
        """What is trained: the baseline, if there is one, and the proxy."""
        most = max(len(one.train) for one in self.members)
        with_baseline = trains_baseline(self.proxies) and most <= self.proxies.max_baseline_pairs
        return [BASELINE, TRAIN] if with_baseline else [TRAIN]


def write_tables(job: TablesJob) -> dict[str, StoragePath]:
    """Write a table per use, ``train`` and, where it is trained, ``baseline``.

    A table has the columns ``chosen_ids``, ``rejected_ids`` (token ids), ``margin`` (what the loss subtracts) and
    ``aspect`` (position among the members). A trainer takes no weights, so balanced sampling repeats pairs; each aspect
    is balanced, and its margins are made, on its own.

    Returns:
        the file of each use.
    """
    encoded = [read_encoded(job.encoded, one.train) for one in job.members]
    paths = {use: job.folder / f"{use}.parquet" for use in job.uses}
    for use, path in paths.items():
        parts = [
            _drawn(job, table, count, number, use)
            for number, (table, count) in enumerate(zip(encoded, job.draws, strict=True))
        ]
        path.write_table(pa.concat_tables(parts))
    return paths


def write_held_out(chosen: list[AspectPairs], encoded: ShardedFolder, path: StoragePath) -> None:
    """Write the held-out pairs of all aspects: ``chosen_ids``, ``rejected_ids``, ``length_difference``, ``aspect``.

    ``length_difference`` counts tokens of the whole responses; ``aspect`` is the name.
    """
    tables = [read_encoded(encoded, one.held_out).drop_columns(["pair_id"]) for one in chosen]
    named = [
        table.append_column("aspect", pa.array([one.aspect] * len(table), pa.string()))
        for one, table in zip(chosen, tables, strict=True)
    ]
    path.write_table(pa.concat_tables(named))


def trains_baseline(proxies: ProxiesConfig) -> bool:
    """Whether a proxy without length remedies is fitted too: only where there is a remedy to compare it with."""
    return proxies.length_baseline and (proxies.balance_temperature is not None or proxies.length_penalty != 0)


def _drawn(job: TablesJob, table: pa.Table, count: int, number: int, use: str) -> pa.Table:
    proxies, remedies = job.proxies, use == TRAIN
    temperature, penalty = (proxies.training_temperature, proxies.training_penalty) if remedies else (None, 0.0)
    difference = table["length_difference"].to_numpy()
    rows = length.draw(table["pair_id"].to_pylist(), difference, count, temperature, job.seed)
    margin = length.training_margin(difference, penalty, proxies.length_penalty_form)
    return (
        table.select(["chosen_ids", "rejected_ids"])
        .take(pa.array(rows))
        .append_column("margin", pa.array(margin[rows], pa.float64()))
        .append_column("aspect", pa.array(np.full(count, number), pa.int64()))
    )
