"""Select the 30% of 1,000,000 pairs with the smallest PD, text included: pdray beside what one would write instead.

    python benchmarks/selection.py --rows 1000000 --out benchmarks/results/selection-1m-2core.json

Every contender reads the same parquet files (pair_id, pd, prompt, chosen, rejected; about 1.9 KB of text a row), writes
the kept rows to parquet and must keep the same ids. Each runs in a fresh process; Ray's start is not counted. Memory is
the peak over the process tree of private bytes, plus what the tree put into /dev/shm. ``pdray stage`` does more than
the others: it starts from rewards (quantiles, PD) and writes every pair's rank as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from benchmarks.common import write_result
from pdray.selection.divergence import preference_divergence, scale_margins

BUDGET = 0.3
FILES = 16
TEXT = {"prompt": 700, "chosen": 600, "rejected": 600}
ASPECTS = ("helpfulness", "honesty", "truthfulness")


def make_data(folder: Path, rows: int) -> None:
    """Write ``texts/`` (with pd) and the same pairs' ``scores/`` and ``pairs/`` for the stage."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), n)) for n in rng.integers(2, 9, 5000)])
    noise = " ".join(words[rng.integers(0, len(words), 2_000_000)])
    for name in ("texts", "scores/scores", "corpus/pairs"):
        (folder / name).mkdir(parents=True)
    own = rng.integers(0, len(ASPECTS), rows)
    margins = np.round(rng.normal(size=(rows, len(ASPECTS))), 3).astype(np.float32)
    needed = own[:, None] != np.arange(len(ASPECTS))
    # The stage runs with γ = 1, where an aspect's quantile is its largest margin.
    scaled = [scale_margins(margins[:, k], float(np.abs(margins[needed[:, k], k]).max())) for k in range(len(ASPECTS))]
    divergence = preference_divergence(np.stack(scaled, axis=1), own)
    for index, ids in enumerate(np.array_split(rng.permutation(rows), FILES)):
        starts = {name: rng.integers(0, len(noise) - size, len(ids)) for name, size in TEXT.items()}
        text = {name: [noise[s : s + TEXT[name]] for s in starts[name]] for name in TEXT}
        scores: dict[str, Any] = {
            "pair_id": [f"pair-{i:09}" for i in ids],
            "aspect": [ASPECTS[i] for i in own[ids]],
            "len_chosen": np.full(len(ids), 100, np.int32),
            "len_rejected": np.full(len(ids), 100, np.int32),
        }
        for k, aspect in enumerate(ASPECTS):
            scores[f"reward_chosen.{aspect}"] = pa.array(margins[ids, k], mask=~needed[ids, k])
            scores[f"reward_rejected.{aspect}"] = pa.array(np.zeros(len(ids), np.float32), mask=~needed[ids, k])
        pq.write_table(pa.table(scores), folder / f"scores/scores/{index}.parquet")
        pairs = pa.table({"pair_id": scores["pair_id"], **text, "aspect": scores["aspect"]})
        pq.write_table(pairs, folder / f"corpus/pairs/{index}.parquet")
        pq.write_table(pairs.append_column("pd", pa.array(divergence[ids])), folder / f"texts/{index}.parquet")


def pdray_cut(data: Path, out: Path, keep: int) -> None:
    """Distributed sort of (pd, pair_id), then one filtering pass over the text."""
    import ray.data

    from pdray.selection.cut import sorted_blocks
    from pdray.selection.stage import write_kept

    narrow = ray.data.read_parquet(str(data / "texts")).select_columns(["pd", "pair_id"])
    blocks = [block for block in sorted_blocks(narrow, "pd") if block.offset < keep]
    ids = pa.concat_arrays(
        [ray.get(b.ref)["pair_id"].combine_chunks().slice(0, max(0, keep - b.offset)) for b in blocks]
    )
    write_kept(data / "texts", ids, out, _NoCounter())


def pdray_stage(data: Path, out: Path, keep: int) -> None:
    """The whole selection stage, from rewards to kept text."""
    import io
    from types import SimpleNamespace

    from pdray.config import SelectionConfig
    from pdray.console import Console
    from pdray.progress import Progress
    from pdray.selection import stage
    from pdray.stages import StageContext

    rows = pads.dataset(data / "scores" / "scores").count_rows()
    folder = out.with_name("stage")
    folder.mkdir()
    config: Any = SimpleNamespace(selection=SelectionConfig(budget=BUDGET, gamma=1.0), seed=0)
    manifests: dict[str, Any] = {
        "corpus": {"rows_out": rows},
        "proxies": {"metrics": {"aspects": {aspect: {"length_penalty": 0.0} for aspect in ASPECTS}}},
    }
    inputs = {"scores": data / "scores", "corpus": data / "corpus"}
    progress = Progress(Console(io.StringIO(), io.StringIO()), "selection")
    stage.run(StageContext(config, folder, inputs, manifests, progress))
    (folder / "kept").rename(out)


def ray_sort_limit(data: Path, out: Path, keep: int) -> None:
    """What Ray Data offers: sort whole rows, take the first."""
    import ray.data

    ray.data.read_parquet(str(data / "texts")).sort(["pd", "pair_id"]).limit(keep).write_parquet(str(out))


def duckdb(data: Path, out: Path, keep: int) -> None:
    """One SQL statement on one machine."""
    import duckdb as engine

    out.mkdir()
    engine.execute(
        f"COPY (SELECT * FROM read_parquet('{data}/texts/*.parquet') ORDER BY pd, pair_id LIMIT {keep}) "
        f"TO '{out}/kept.parquet' (FORMAT parquet)"
    )


def polars(data: Path, out: Path, keep: int) -> None:
    """A lazy query with the streaming engine on one machine."""
    import polars as engine

    out.mkdir()
    query = engine.scan_parquet(f"{data}/texts/*.parquet").sort("pd", "pair_id").head(keep)
    query.sink_parquet(out / "kept.parquet")


class _NoCounter:
    def add(self, count: int) -> None:
        pass


CONTENDERS = {
    "pdray cut and text": (pdray_cut, True),
    "pdray stage": (pdray_stage, True),
    "Ray Data sort().limit()": (ray_sort_limit, True),
    "DuckDB": (duckdb, False),
    "Polars": (polars, False),
}


class MemoryPeak(threading.Thread):
    """Samples the memory of this process and its children five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._finished = threading.Event()
        self._shared = shutil.disk_usage("/dev/shm").used

    def run(self) -> None:
        while not self._finished.wait(0.2):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        total = shutil.disk_usage("/dev/shm").used - self._shared
        for process in [me := psutil.Process(), *me.children(recursive=True)]:
            try:
                memory = process.memory_info()
                total += memory.rss - memory.shared
            except psutil.NoSuchProcess:
                continue
        return total

    def finish(self) -> float:
        """Peak in GiB."""
        self._finished.set()
        self.join()
        return round(self.peak / 2**30, 2)


def measure(name: str, data: Path, out: Path, keep: int) -> dict[str, Any]:
    """Run one contender in this process."""
    from pdray.config import ClusterConfig
    from pdray.runtime import ray_session
    from pdray.selection.stage import ids_sha256

    function, on_ray = CONTENDERS[name]
    memory = MemoryPeak()

    def timed() -> float:
        start = time.monotonic()
        function(data, out, keep)
        return time.monotonic() - start

    memory.start()
    if on_ray:
        with ray_session(ClusterConfig()):
            seconds = timed()
            peak = memory.finish()
    else:
        seconds, peak = timed(), memory.finish()
    ids = pads.dataset(out).to_table(columns=["pair_id"])["pair_id"].combine_chunks()
    ids_digest = ids_sha256(ids.take(pa.compute.sort_indices(ids)))
    return {
        "contender": name,
        "seconds": round(seconds, 2),
        "peak_memory_gib": peak,
        "rows": len(ids),
        "ids_sha256": ids_digest,
    }


def main() -> None:
    """Make the data, run every contender, check that they agree and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--scratch", type=Path, help="folder for the data (default: a temporary one)")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep = int(BUDGET * args.rows)
    if args.contender:
        result = measure(args.contender, args.scratch, args.scratch / "out", keep)
        args.out.write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        make_data(Path(scratch), args.rows)
        rows = [_in_fresh_process(name, Path(scratch), args.rows) for name in CONTENDERS]
    same = {row["ids_sha256"] for row in rows}
    assert len(same) == 1, f"the contenders disagree: {rows}"
    fastest = min(row["seconds"] for row in rows)
    for row in rows:
        row["times_the_fastest"] = round(row["seconds"] / fastest, 2)
        print(f"{row['contender']:<26} {row['seconds']:>8} s  {row['peak_memory_gib']:>6} GiB")
    write_result(args.out, "selection", {"rows": args.rows, "budget": BUDGET, "text_bytes": sum(TEXT.values())}, rows)


def _in_fresh_process(name: str, scratch: Path, rows: int) -> dict[str, Any]:
    result = scratch / "result.json"
    shutil.rmtree(scratch / "out", ignore_errors=True)
    shutil.rmtree(scratch / "stage", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.selection", "--contender", name, "--rows", str(rows)]
    log = scratch / "log"
    with log.open("w") as file:
        code = subprocess.call(
            [*command, "--scratch", str(scratch), "--out", str(result)], stdout=file, stderr=subprocess.STDOUT
        )
    if code:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-4000:]}")
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured


if __name__ == "__main__":
    main()
