"""Kill a run in the middle of a stage, run it again: what is made twice, and are the same pairs kept?

    python -m benchmarks.resume --out benchmarks/results/resume-2core.json
    python -m benchmarks.resume --pairs 1000 --where local --stages scores --at 50 --out /tmp/resume.json

The driver gets SIGKILL as soon as the given share of the stage's shards has markers; then the same command runs again.
``again`` counts shards that had a marker at the kill and were written once more, ``repeated_rows`` their rows;
what was under way without a marker (a shard for each engine, or for each task of the other stages) is lost by design.
Ids and bytes of the kept shards are compared with those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import write_result
from benchmarks.scoring_data import make_models
from pdray.demo.words import ASPECTS
from pdray.demo.world import make_pairs
from pdray.shards import MARKERS
from pdray.storage import StoragePath

STAGES = ("corpus", "scores", "selection")
TEXTS_PER_SHARD = 100
GIVE_UP_SECONDS = 600.0


def main() -> None:
    """An undisturbed run, then every case, each in a run folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1200)
    parser.add_argument("--where", nargs="+", choices=("local", "s3"), default=["local", "s3"])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--at", nargs="+", type=int, default=[10, 50, 90], help="percent of the stage's shards")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        config = make_run(Path(scratch), args.pairs)
        with storage(Path(scratch), args.where) as roots:
            undisturbed = roots["local"] / "undisturbed"
            start = time.monotonic()
            finish(config, undisturbed)
            print(f"undisturbed: {time.monotonic() - start:.0f} s", flush=True)
            for where in args.where:
                for stage in args.stages:
                    for percent in args.at:
                        run = roots[where] / f"{stage}-{percent}"
                        rows.append({"where": where, **kill_and_resume(config, run, stage, percent, undisturbed)})
                        print(json.dumps(rows[-1]), flush=True)
    write_result(args.out, "resume", {"pairs": args.pairs, "texts_per_shard": TEXTS_PER_SHARD}, rows)


def make_run(folder: Path, pairs: int) -> Path:
    """The config of a run on the demo's pairs with a ready model of four labels."""
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(pairs)))
    model = make_models(None, folder / "models", len(ASPECTS)) / f"{len(ASPECTS)}-labels"
    settings = {
        "run": "set on the command line",
        "corpus": {"kind": "pairs", "path": str(corpus), "texts_per_shard": TEXTS_PER_SHARD},
        "proxies": {"models": {"path": str(model), "labels": {name: i for i, name in enumerate(ASPECTS)}}},
        # Which engine scores does not matter here, and this one is loaded soonest.
        "scores": {"engine": "transformers", "max_tokens": 96},
        "selection": {"budget": 0.3},
    }
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


@contextlib.contextmanager
def storage(folder: Path, where: list[str]) -> Iterator[dict[str, StoragePath]]:
    """Where run folders go: a local folder, and a bucket of a real server that runs as long as the block."""
    roots = {"local": StoragePath(str(folder / "runs"))}
    with contextlib.ExitStack() as stack:
        if "s3" in where:
            from tests.s3 import ACCESS_KEY, SECRET_KEY, s3_server

            os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
            server = stack.enter_context(s3_server(folder / "s3"))
            roots["s3"] = StoragePath(server.uri("runs"))
        yield roots


def kill_and_resume(
    config: Path, run: StoragePath, stage: str, percent: int, undisturbed: StoragePath
) -> dict[str, Any]:
    """One case; see the module."""
    total = len(markers(undisturbed, stage))
    process = subprocess.Popen(command(config, run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + GIVE_UP_SECONDS
    while len(markers(run, stage)) < max(1, total * percent // 100):
        assert process.poll() is None, f"the run ended with {process.poll()} before {percent}% of {stage}"
        assert time.monotonic() < end, f"{percent}% of {stage} were not reached"
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1)  # its workers go with it; what they finish in that moment counts as done
    before = markers(run, stage)
    start = time.monotonic()
    finish(config, run)
    seconds = time.monotonic() - start
    after = markers(run, stage)
    again = [name for name, written in before.items() if after[name] != written]
    return {
        "stage": stage,
        "percent": percent,
        "shards": total,
        "done_at_kill": len(before),
        "again": len(again),
        "repeated_rows": sum(rows_of(run, stage, name) for name in again),
        "seconds_to_the_end": round(seconds, 1),
        "kept_shards_identical": kept_digest(run) == kept_digest(undisturbed),
    }


def command(config: Path, run: StoragePath) -> list[str]:
    """``pdray run``."""
    return [sys.executable, "-m", "pdray", "run", str(config), "--set", f"run={run.uri}"]


def finish(config: Path, run: StoragePath) -> None:
    """Run to the end."""
    done = subprocess.run(command(config, run), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]


def stage_folder(run: StoragePath, stage: str) -> StoragePath | None:
    """The folder of a stage, None before there is one."""
    names = {name.partition("/")[0] for name in run.sizes(recursive=True) if name.startswith(f"{stage}-")}
    assert len(names) < 2, f"{run} has several folders of {stage}"
    return run / names.pop() if names else None


def markers(run: StoragePath, stage: str) -> dict[str, int]:
    """Name of each marker and when it was written, in nanoseconds."""
    folder = stage_folder(run, stage)
    if folder is None:
        return {}
    return {
        name: (folder / MARKERS / name).info().mtime_ns for name in (folder / MARKERS).sizes() if name.endswith(".json")
    }


def rows_of(run: StoragePath, stage: str, marker: str) -> int:
    """Rows of all tables of a shard."""
    folder = stage_folder(run, stage)
    assert folder is not None
    return sum(one["rows"] for one in (folder / MARKERS / marker).read_json()["files"].values())


def kept_digest(run: StoragePath) -> str:
    """sha256 over names and bytes of the kept shards."""
    folder = stage_folder(run, "selection")
    assert folder is not None
    hasher = hashlib.sha256()
    for name in sorted((folder / "kept").sizes()):
        hasher.update(name.encode() + (folder / "kept" / name).read_bytes())
    return hasher.hexdigest()


if __name__ == "__main__":
    main()
