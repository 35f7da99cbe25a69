"""The candidate pairs on disk, and their narrow columns in memory: eleven bytes a pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pdray.builders.mixture import AGREES, CONFLICTS, UNKNOWN
from pdray.corpus.conflict import conflicts
from pdray.hashing import hash64
from pdray.schema import text_type
from pdray.storage import PARQUET

ROWS_PER_GROUP = 2_000
ROWS_PER_FILE = 50_000
SIDES = ("chosen", "rejected")


def pair_schema(aspects: tuple[str, ...], conversational: bool) -> pa.Schema:
    """What is built: the pairs as the corpus stage reads them, and ``license``, which it leaves aside."""
    texts = [(name, text_type(conversational)) for name in ("prompt", *SIDES)]
    plain = [(name, pa.string()) for name in ("aspect", "overall", "source", "license")]
    ratings = [(f"score_{side}.{aspect}", pa.float64()) for aspect in aspects for side in SIDES]
    return pa.schema([("pair_id", pa.string()), *texts, *plain, *ratings])


class Candidates:
    """Pairs that are written one by one, then judged and taken by row.

    Args:
        path: of the parquet file that holds them.
        aspects: with ratings, sorted.
        conversational: whether texts are messages.
    """

    def __init__(self, path: Path, aspects: tuple[str, ...], conversational: bool) -> None:
        self.path, self.aspects = path, aspects
        self.schema = pair_schema(aspects, conversational)
        self._file = pq.ParquetWriter(path, self.schema, **PARQUET)
        self._rows: list[dict[str, Any]] = []

    def add(self, pair: dict[str, Any]) -> None:
        """Write a pair of the schema."""
        self._rows.append(pair)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """All pairs are written."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
            self._rows = []

    def keys(self, salt: str) -> np.ndarray:
        """(n,) uint64, a hash of each ``pair_id``."""
        hashes = [hash64(batch["pair_id"].to_pylist(), salt) for batch in self._columns(["pair_id"])]
        return np.concatenate([np.empty(0, np.uint64), *hashes])

    def labels(self) -> np.ndarray:
        """(n,) int16, number of the aspect that labels each pair."""
        codes = pa.array(self.aspects, pa.string())
        found = [pc.index_in(batch["aspect"], codes).to_numpy() for batch in self._columns(["aspect"])]
        return np.concatenate([np.empty(0, np.int16), *(part.astype(np.int16) for part in found)])

    def spans(self, kept: np.ndarray) -> np.ndarray:
        """(κ,) float64, largest rating minus smallest among some pairs, 0 where there is none; as in the corpus.

        Args:
            kept: (n,) bool.
        """
        lows, highs = np.full(len(self.aspects), np.inf), np.full(len(self.aspects), -np.inf)
        for rows, chosen, rejected in self._ratings():
            both = np.concatenate([chosen[kept[rows]], rejected[kept[rows]]])
            lows = np.fmin(lows, np.fmin.reduce(both, axis=0, initial=np.inf))
            highs = np.fmax(highs, np.fmax.reduce(both, axis=0, initial=-np.inf))
        return np.where(np.isfinite(lows), highs - np.where(np.isfinite(lows), lows, 0.0), 0.0)

    def states(self, labels: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """(n,) int8, whether each pair conflicts, as the corpus stage tells it.

        Args:
            labels: see :meth:`labels`.
            spans: see :meth:`spans`.
        """
        states = np.empty(len(labels), np.int8)
        for rows, chosen, rejected in self._ratings():
            judged = conflicts(chosen - rejected, labels[rows], spans)
            states[rows] = np.where(np.isnan(judged), UNKNOWN, np.where(judged == 1, CONFLICTS, AGREES))
        return states

    def tables(self, kept: np.ndarray) -> Iterator[pa.Table]:
        """Some pairs with all that is known of them, in tables of at most ``ROWS_PER_FILE`` rows.

        Args:
            kept: (n,) bool.
        """
        parts: list[pa.Table] = []
        start = 0
        for batch in self._columns(None):
            part = pa.Table.from_batches([batch]).filter(pa.array(kept[start : start + len(batch)]))
            start += len(batch)
            parts.append(part)
            if sum(map(len, parts)) + ROWS_PER_GROUP > ROWS_PER_FILE:
                yield pa.concat_tables(parts)
                parts = []
        if sum(map(len, parts)):
            yield pa.concat_tables(parts)

    def _ratings(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Rows, (n, κ) ratings of chosen and of rejected, NaN where there is none."""
        names = {side: [f"score_{side}.{aspect}" for aspect in self.aspects] for side in SIDES}
        start = 0
        for batch in self._columns([name for side in SIDES for name in names[side]]):
            chosen, rejected = (
                np.stack([batch[name].to_numpy(zero_copy_only=False) for name in names[side]], axis=1) for side in SIDES
            )
            yield slice(start, start + len(batch)), chosen, rejected
            start += len(batch)

    def _columns(self, names: list[str] | None) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            yield from file.iter_batches(ROWS_PER_GROUP, columns=names)
