"""Memory of the driver and of the largest process against the number of pairs: flat, or something is O(pairs).

    python -m benchmarks.scale --pairs 250000 1000000 4000000 --out benchmarks/results/scale-2core.json

Short synthetic pairs, each with a prompt of its own, go through the real corpus and selection stages. Between them
stand FAKE scores, drawn from a hash of the row, because what is measured does not depend on which rewards there are and
an engine would take days. ``driver_mib`` and ``largest_process_mib`` are peaks of anonymous memory: pages of files and
of Ray's object store do not count, as they do in a unique set size where no other process has touched them.
``largest_object_mib`` is the largest object that any process referred to when it was asked, twice a second.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import write_result
from benchmarks.harness import in_fresh_process
from pdray.schema import CorpusOutput, ProxiesOutput, ScoresOutput, scores_schema
from pdray.shards import Outcome, ShardedFolder, run_rounds
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath

ASPECTS = ["helpfulness", "honesty", "truthfulness"]
PAIRS_PER_FILE = 250_000
SAMPLE_SECONDS = 0.5
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
    "or",
    "had",
    "by",
]


class Peaks(threading.Thread):
    """Samples the driver, the processes below it, and the objects that they refer to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.process = self.object = 0
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(SAMPLE_SECONDS):
            me = psutil.Process()
            self.driver = max(self.driver, anonymous(me))
            for process in me.children(recursive=True):
                try:
                    self.process = max(self.process, anonymous(process))
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.object = max(self.object, largest_object())

    def finish(self) -> dict[str, float]:
        """The peaks in MiB."""
        self._finished.set()
        self.join()
        peaks = {"driver": self.driver, "largest_process": self.process, "largest_object": self.object}
        return {f"{name}_mib": round(value / 2**20, 1) for name, value in peaks.items()}


def anonymous(process: psutil.Process) -> int:
    """Bytes of a process in memory that are of no file and not shared."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def largest_object() -> int:
    """Bytes of the largest object that a process of this one node refers to; 0 without a Ray."""
    import ray
    from ray._private.internal_api import node_stats  # what `ray memory` prints; the state API needs the dashboard

    if not ray.is_initialized():
        return 0
    (node,) = ray.nodes()
    found = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
    sizes = [ref.object_size for worker in found.core_workers_stats for ref in worker.object_refs]
    return max(sizes, default=0)


def main() -> None:
    """One fresh process for each number of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[250_000, 1_000_000, 4_000_000])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        args.out.write_text(json.dumps({"rows": run_stages(args.one, args.pairs[0])}))
        return
    rows = []
    for pairs in args.pairs:
        with tempfile.TemporaryDirectory() as scratch:
            make_input(Path(scratch) / "input", pairs)
            words = ["--one", scratch, "--pairs", str(pairs)]
            rows += in_fresh_process("benchmarks.scale", words, Path(scratch) / "run")["rows"]
            print("\n".join(json.dumps(row) for row in rows[-2:]), flush=True)
    write_result(args.out, "scale", {"aspects": len(ASPECTS), "budget": 0.3, "scores": "fake, from a hash"}, rows)


def make_input(folder: Path, pairs: int) -> None:
    """Write parquet files of short pairs."""
    folder.mkdir()
    with ProcessPoolExecutor(psutil.cpu_count()) as pool:
        list(pool.map(partial(_write_file, folder, pairs), range(-(-pairs // PAIRS_PER_FILE))))


def _write_file(folder: Path, pairs: int, number: int) -> None:
    start = number * PAIRS_PER_FILE
    rng, rows = np.random.default_rng(number), min(PAIRS_PER_FILE, pairs - start)

    def texts(words: int) -> list[str]:
        return [" ".join(WORDS[i] for i in line) for line in rng.integers(0, len(WORDS), (rows, words)).tolist()]

    ids = [f"pair-{start + row:010}" for row in range(rows)]
    columns = {
        "pair_id": ids,
        "prompt": [f"{text} {pair_id}" for text, pair_id in zip(texts(8), ids, strict=True)],
        "chosen": texts(10),
        "rejected": texts(9),
        "aspect": [ASPECTS[i] for i in rng.integers(0, len(ASPECTS), rows).tolist()],
    }
    pq.write_table(pa.table(columns), folder / f"part-{number:05}.parquet")


def run_stages(folder: Path, pairs: int) -> list[dict[str, Any]]:
    """Corpus, fake scores, selection; each stage's seconds and peaks."""
    from pdray.config import ClusterConfig, CorpusConfig, ScoresConfig, SelectionConfig
    from pdray.corpus.stage import STAGE as CORPUS
    from pdray.runtime import ray_session
    from pdray.selection.stage import STAGE as SELECTION

    config: Any = SimpleNamespace(
        seed=0,
        run=str(folder / "stages"),
        corpus=CorpusConfig(kind="pairs", path=str(folder / "input")),
        scores=ScoresConfig(),
        selection=SelectionConfig(budget=0.3, rank="kept"),
    )
    with ray_session(ClusterConfig()):
        rows, result = [], None
        for stage in (CORPUS, SELECTION):
            upstream = Upstream() if result is None else fake_scores(config, result)
            context = make_context(config, stage, upstream)
            found, row = measured(partial(stage.run, context))
            result = result or found
            gc.collect()  # as a run does after a stage
            rows.append({"pairs": pairs, "stage": stage.name, "rows_out": found.rows_out, **row})
    return rows


def measured(function: Callable[[], StageResult]) -> tuple[StageResult, dict[str, float]]:
    """What a stage returns, its seconds and peaks."""
    peaks, start = Peaks(), time.monotonic()
    peaks.start()
    result = function()
    return result, {"seconds": round(time.monotonic() - start, 1), **peaks.finish()}


def make_context(config: Any, stage: Stage, upstream: Upstream) -> StageContext:
    """What the pipeline would hand to the stage."""
    from pdray.console import Console
    from pdray.progress import Progress

    run = StoragePath(config.run)
    folder = run / stage.name
    folder.make_folder()
    progress = Progress(Console(io.StringIO(), io.StringIO()), stage.name)
    return StageContext(config, run, folder, stage.name, upstream, progress)


def fake_scores(config: Any, corpus: StageResult) -> Upstream:
    """Scores for every text of the corpus that no model gave."""
    from pdray.progress import Counted
    from pdray.runtime.tasks import outcomes

    handed = corpus.output
    assert isinstance(handed, CorpusOutput)
    run = StoragePath(config.run)
    texts = ShardedFolder(run / "corpus", "corpus", handed.num_shards)
    scores = ShardedFolder(run / "scores", "scores", handed.num_shards)

    def attempt(shards: Any) -> list[Outcome]:
        return list(outcomes(partial(_fake_shard, texts, scores), shards, Counted()))

    run_rounds(scores, attempt, print)
    return Upstream(
        folders={name: run / name for name in ("corpus", "proxies", "scores")},
        fingerprints={name: name for name in ("corpus", "proxies", "scores")},
        corpus=handed,
        proxies=ProxiesOutput([], dict.fromkeys(ASPECTS, 0.001)),
        scores=ScoresOutput(handed.num_shards, ASPECTS, handed.texts),
    )


def _fake_shard(texts: ShardedFolder, scores: ShardedFolder, shard: int) -> Outcome:
    rows = len(texts.read("texts", shard, ["response"]))
    rng = np.random.default_rng([7, shard])
    rewards = [rng.normal(size=rows).astype(np.float32) for _ in ASPECTS]
    tokens = rng.integers(5, 50, rows).astype(np.int32)
    table = pa.table([*rewards, tokens, np.zeros(rows, bool)], schema=scores_schema(ASPECTS))
    scores.write(shard, {"texts": table}, 0, {})
    return Outcome(shard)


if __name__ == "__main__":
    main()
