"""What is known of a run on paper: its corpus, its hardware, and service times that were measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.sweep import ASPECTS, known
from benchmarks.tables import RESULTS
from pdray.corpus.exchange import num_partitions, partition_bytes
from pdray.corpus.plan import pack
from pdray.corpus.summary import BUCKETS
from pdray.plan.cost import Cost, Known
from pdray.plan.hardware import GIB
from pdray.plan.stages import stage_costs
from pdray.shards import VERIFY_THREADS

# Ray's own: bytes of a block, of a task's results that go to the driver and not to the object store, and of a node's
# object store.
BLOCK_BYTES, INLINE_BYTES, STORE_BYTES = 128 * 2**20, 10 * 2**20, 200e9
# Assumed of a node: disk for what does not fit the object store, and shared storage, bytes a second; and of object
# storage the seconds of a request.
DISK, STORAGE, REQUEST = 4e9, 5e9, 0.03
DRIVER_BYTES = 16 * GIB  # what docs and charts give a driver
PASSES = 5  # two for the quantiles, one over the divergence, two for the cut
CORPUS_FILES, SCORES_FILES = 4, 2  # of a shard, its marker among them


@dataclass(frozen=True)
class Measured:
    """Service times of one core of the machine that measured them, and what a driver holds.

    Attributes:
        pair, text_byte: CPU seconds of the selection for a pair, and for each byte of its text.
        token: of tokenising a pair for the alignment, for each of its tokens; an upper bound, the machine was busy.
        driver: CPU seconds of the driver for a shard that is scored.
        marker, part: bytes in the driver of a marker, and of what it keeps of each part of a shuffle.
    """

    pair: float
    text_byte: float
    token: float
    driver: float
    marker: float
    part: float

    @staticmethod
    def read() -> Measured:
        """From the result files."""
        narrow, wide = _file("selection-100m-narrow-2core"), _file("selection-10m-2core")
        seconds = [of["rows"][0]["cpu_seconds"] / of["config"]["rows"] for of in (narrow, wide)]
        sizes = [of["config"]["text_bytes"] for of in (narrow, wide)]
        text_byte = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
        tokenised = _file("alignment-input-2core")["rows"][-1]
        simulation = _file("simulation-2core")
        simulated = [row for row in simulation["rows"] if not row["failures"]][-1]
        return Measured(
            pair=seconds[0] - sizes[0] * text_byte,
            text_byte=text_byte,
            token=2 * tokenised["seconds"] / tokenised["pairs"] / 67,  # docs/benchmarks.md: 67 tokens a pair
            driver=simulated["driver_ms_per_shard"] / 1000,
            marker=simulated["marker_bytes"],
            part=simulation["config"]["part_bytes"],
        )


def _file(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Run:
    """A run on paper.

    Attributes:
        known: pairs, models, hardware.
        costs: of its stages, by the arithmetic of ``pdray plan``.
        measured: service times.
        shards: S.
    """

    known: Known
    costs: dict[str, Cost]
    measured: Measured
    shards: int

    @property
    def bytes(self) -> float:
        """Of the text of all pairs."""
        return self.known.corpus.pairs * self.known.corpus.pair_bytes

    @property
    def nodes(self) -> int:
        """With GPUs."""
        return self.known.hardware.nodes

    @property
    def cpus(self) -> float:
        """Of all nodes."""
        return self.known.hardware.cpus

    @property
    def map_tasks(self) -> int:
        """Of the shuffle."""
        return math.ceil(self.bytes / partition_bytes(int(self.bytes)))

    @property
    def partitions(self) -> int:
        """Of the shuffle."""
        return num_partitions(int(self.bytes), self.cpus)

    @property
    def inlined(self) -> float:
        """Bytes of the shuffle that go through the driver: parts below 100 kB, up to a limit for each map task."""
        part = self.bytes / self.map_tasks / self.partitions
        return self.map_tasks * min(INLINE_BYTES, part * self.partitions) if part < 100e3 else 0.0

    def storage(self, size: float) -> float:
        """Seconds to read or write so much on shared storage."""
        return size / (self.nodes * STORAGE)

    def requests(self, files: float) -> float:
        """Seconds for so many requests of the driver to object storage."""
        return files * REQUEST / VERIFY_THREADS


def paper(pairs: int, gpus: int, aspects: int, texts_per_shard: int | None) -> Run:
    """A run of so many pairs."""
    names = [*ASPECTS, *(f"aspect-{number}" for number in range(len(ASPECTS), aspects))][:aspects]
    facts = known(pairs, gpus, names, texts_per_shard)
    of_shard = facts.config.corpus.texts_per_shard
    assert of_shard is not None, "the config sets it"
    runs = pack(np.full(BUCKETS, facts.corpus.texts / BUCKETS), of_shard)
    return Run(facts, stage_costs(facts), Measured.read(), sum(shards for _, shards in runs))
