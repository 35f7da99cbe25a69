"""A run with labels on a real cluster of two nodes: all of its work is on the one that has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.whole_run import write_small_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(*words: str) -> dict[str, Any]:
    """What :mod:`tests.two_pools` tells of a run."""
    command = [sys.executable, "-m", "tests.two_pools", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert [text for text in found["told"] if text.startswith("cluster.labels is pool=team-a, and none of 1 node(s)")]
    assert "work on team-b" not in found
    return found


def names(work: dict[str, int]) -> set[str]:
    """Names of tasks without what stands in brackets."""
    return {name.partition("(")[0] for name in work}


def test_reads_shuffles_sorts_and_shard_tasks(tmp_path: Path) -> None:
    found = run(str(tmp_path))
    work = names(found["work on team-a"])
    assert {"HashShuffleMap", "HashShuffleReduce", "SortShuffleMap", "SortShuffleReduce", "_sample_block"} <= work
    assert {"MapBatches", "reduce", "_call", "_narrow", "summarise"} <= work
    # Bookkeeping that asks for no CPU stays where the driver is.
    assert {name.partition(".")[0] for name in found["other on team-b"]} <= {
        "Counted",
        "_AutoscalingCoordinatorActor",
        "_StatsActor",
    }


def test_trainings_and_engines(tmp_path: Path) -> None:
    found = run(str(tmp_path), str(write_small_config(tmp_path)))
    assert {"ShardScorer", "RayTrainWorker"} <= names(found["work on team-a"])
    manifest = json.loads(next((tmp_path / "run").glob("alignment-*/manifest.json")).read_text())
    assert 1 < manifest["metrics"]["worker_start_seconds"] < manifest["seconds"]
