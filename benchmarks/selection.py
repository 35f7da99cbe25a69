"""Select the 30% of 1,000,000 pairs with the smallest PD, text included: pdray beside what one would write instead.

    python -m benchmarks.selection --rows 1000000 --out benchmarks/results/selection-1m-2core.json
    python -m benchmarks.selection --rows 100000000 --text-bytes 24 --only pdray --out …     # narrow

pdray runs its whole stage: from the rewards of the texts (margins, quantiles, PD, cut) to the kept pairs with their
text, and a table of every pair's divergence. The others read one flat table of the same pairs, 1.9 KB of text each,
in which PD stands already, and write the kept ones. All must keep the same ids. Each contender runs in a fresh
process, one after the other, as often as ``--repeats`` says. The start of Ray and of its workers is not counted, nor
what pyarrow imports when it makes its first array, which the workers of a run have done; what they import of pdray is.
Memory is the peak over the process tree of proportional set sizes, in a run of its own that is not timed; CPU seconds
are those of the tree. ``ratio`` is the median of the seconds over those of DuckDB's ORDER BY LIMIT.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.dataset as pads

from benchmarks.common import load_average, write_result
from benchmarks.harness import in_fresh_process, measure, medians
from benchmarks.selection_data import GAMMA, make_data, num_shards, upstream

BUDGET = 0.3
COLUMNS = "pair_id, prompt, chosen, rejected, aspect"


def pdray_stage(data: Path, out: Path, rows: int, rank: str = "none", budget: float = BUDGET) -> None:
    """The whole selection stage, from rewards to kept text."""
    import io

    from pdray.config import SelectionConfig
    from pdray.console import Console
    from pdray.progress import Progress
    from pdray.selection.stage import STAGE
    from pdray.stages import StageContext
    from pdray.storage import StoragePath

    selection = SelectionConfig(budget=budget, gamma=GAMMA, rank=rank)  # type: ignore[arg-type]
    config: Any = SimpleNamespace(selection=selection, seed=0)
    run = StoragePath(str(out.parent / "run"))
    progress = Progress(Console(io.StringIO(), io.StringIO()), "selection")
    STAGE.run(StageContext(config, run, StoragePath(str(out)), f"{budget}", upstream(data, rows), progress))


def pdray_ranks(data: Path, out: Path, rows: int) -> None:
    """The same with the rank of each kept pair, by a distributed sort."""
    pdray_stage(data, out, rows, rank="kept")


def pdray_another_budget(data: Path, out: Path, rows: int) -> None:
    """Half the budget, after :func:`pdray_stage` in the same run folder; keeps fewer pairs than the others."""
    pdray_stage(data, out, rows, budget=BUDGET / 2)


def ray_sort_limit(data: Path, out: Path, rows: int) -> None:
    """What Ray Data offers: sort whole rows, take the first."""
    import ray.data

    table = ray.data.read_parquet(str(data / "flat"))
    table.sort(["pd", "pair_id"]).limit(int(BUDGET * rows)).write_parquet(str(out / "kept"))


def duckdb_sort(data: Path, out: Path, rows: int) -> None:
    """One SQL statement on one machine: order, then limit."""
    query = f"SELECT {COLUMNS} FROM pairs ORDER BY pd, pair_id LIMIT {int(BUDGET * rows)}"
    _duckdb(data, out, query)


def duckdb_join(data: Path, out: Path, rows: int) -> None:
    """The ids by order and limit on two columns, then the text of those."""
    ids = f"SELECT pair_id FROM pairs ORDER BY pd, pair_id LIMIT {int(BUDGET * rows)}"
    _duckdb(data, out, f"SELECT {COLUMNS} FROM pairs SEMI JOIN ({ids}) AS kept USING (pair_id)")


def _duckdb(data: Path, out: Path, query: str) -> None:
    import duckdb as engine

    (out / "kept").mkdir(parents=True)
    engine.execute("SET preserve_insertion_order = false")
    engine.execute(f"CREATE VIEW pairs AS SELECT * FROM read_parquet('{data}/flat/*.parquet')")
    engine.execute(f"COPY ({query}) TO '{out}/kept/kept.parquet' (FORMAT parquet)")


def polars(data: Path, out: Path, rows: int) -> None:
    """A lazy query with the streaming engine on one machine."""
    import polars as engine

    (out / "kept").mkdir(parents=True)
    query = engine.scan_parquet(f"{data}/flat/*.parquet").sort("pd", "pair_id").head(int(BUDGET * rows))
    query.select(COLUMNS.split(", ")).sink_parquet(out / "kept" / "kept.parquet")


DUCKDB = "DuckDB ORDER BY LIMIT"
Contender = Callable[[Path, Path, int], None]
CONTENDERS: dict[str, Contender] = {
    "pdray": pdray_stage,
    "pdray with ranks": pdray_ranks,
    DUCKDB: duckdb_sort,
    "DuckDB ids, then join": duckdb_join,
    "Polars": polars,
    "Ray Data sort().limit()": ray_sort_limit,
}
ON_RAY = (pdray_stage, pdray_ranks, ray_sort_limit)


def _start_workers() -> None:
    """Have a worker on every CPU that has read a table before, as a run has when it comes to the selection."""
    import ray

    cpus = int(ray.cluster_resources()["CPU"])
    ray.get([ray.remote(_read_and_pause).remote(2.0) for _ in range(cpus)])


def _read_and_pause(seconds: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": [1]}), sink)  # pyarrow imports pandas with its first array
    pq.read_table(pa.BufferReader(sink.getvalue()))
    time.sleep(seconds)


def measure_in_session(name: str, data: Path, scratch: Path, rows: int, memory: bool) -> dict[str, Any]:
    """Run one contender, on a Ray of its own where it needs one, and digest the ids that it kept."""
    import contextlib

    from pdray.config import ClusterConfig
    from pdray.runtime import ray_session
    from pdray.selection.kept import as_hex, ids_digest

    function, out = CONTENDERS[name], scratch / "out"
    with ray_session(ClusterConfig()) if function in ON_RAY else contextlib.nullcontext():
        if function in ON_RAY:
            _start_workers()
        result: dict[str, Any] = dict(measure(lambda: function(data, out, rows), memory))
        if function is pdray_stage and not memory:
            half = measure(lambda: pdray_another_budget(data, scratch / "half", rows))
            result["another_budget_seconds"] = half["seconds"]
    ids = pads.dataset(out / "kept").to_table(columns=["pair_id"])["pair_id"].to_pylist()
    return {
        "contender": name,
        **result,
        "rows": len(ids),
        "ids_digest": as_hex(ids_digest([pair_id.encode() for pair_id in ids])),
    }


def forget_files(data: Path) -> None:
    """Have the kernel drop what it has cached of the files of a folder."""
    for path in data.rglob("*.parquet"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_contender(args: argparse.Namespace, name: str, data: Path, scratch: Path, *more: str) -> dict[str, Any]:
    """One contender in a fresh process."""
    os.sync()  # what the contender before wrote is not written at the cost of this one
    if args.cold:
        forget_files(data)
    words = ["--contender", name, "--rows", str(args.rows), "--data", str(data), *more]
    run = in_fresh_process("benchmarks.selection", words, scratch / "run")
    print(json.dumps({key: value for key, value in run.items() if key != "ids_digest"}), flush=True)
    return run


def main() -> None:
    """Make the data, run every contender, check that they agree and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--text-bytes", type=int, default=1900, help="of a pair, prompt and responses together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="read from the disk: nothing of the data is cached before")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--data", type=Path, help="folder that keeps the data for another time (default: a temporary)")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        result = measure_in_session(args.contender, args.data, args.out.parent, args.rows, args.memory)
        args.out.write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(dir=args.data) as scratch:
        data = (args.data or Path(scratch)) / f"pairs-{args.rows}-{args.text_bytes}"
        make_data(data, args.rows, args.text_bytes, psutil.cpu_count() or 1)
        runs, peaks = [], {}
        for _ in range(args.repeats):
            for name in args.only:
                runs.append(run_contender(args, name, data, Path(scratch)))
        for name in args.only:
            peaks[name] = run_contender(args, name, data, Path(scratch), "--memory")["peak_memory_gib"]
    assert len({run["ids_digest"] for run in runs}) == 1, f"the contenders disagree: {runs}"
    rows = [
        {**medians([run for run in runs if run["contender"] == name]), "peak_memory_gib": peaks[name]}
        for name in args.only
    ]
    duckdb = next((row["seconds"] for row in rows if row["contender"] == DUCKDB), None)
    rows = [{**row, "ratio": round(row["seconds"] / duckdb, 2)} if duckdb else row for row in rows]
    settings = {"rows": args.rows, "budget": BUDGET, "text_bytes": args.text_bytes}
    settings |= {"repeats": args.repeats, "cold": args.cold}
    write_result(args.out, "selection", settings | {"shards": num_shards(args.rows), "load": load_average()}, rows)


if __name__ == "__main__":
    main()
