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


# What asks for no CPU stays where the driver is: pdray's counters, and the books of Ray Data and Ray Train.
BOOKS = {
    "ActorLocationTracker",
    "Beside",
    "DatasetManager",
    "PlacementGroupCleaner",
    "SynchronizationActor",
    "TrainController",
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
}


def run(*words: str) -> set[str]:
    """What a run of :mod:`tests.two_pools` did on the node with its label, all that is work; names without brackets."""
    command = [sys.executable, "-m", "tests.two_pools", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert [text for text in found["told"] if text.startswith("cluster.labels is pool=team-a, and none of 1 node(s)")]
    assert {name.partition(".")[0] for name in found["team-b"]} <= BOOKS
    return {name.partition("(")[0] for name in found["team-a"]}


def test_reads_shuffles_sorts_and_shard_tasks(tmp_path: Path) -> None:
    work = run(str(tmp_path))
    assert {"HashShuffleMap", "HashShuffleReduce", "SortShuffleMap", "SortShuffleReduce", "_sample_block"} <= work
    assert {"MapBatches", "reduce", "_call", "_narrow", "summarise"} <= work


def test_trainings_and_engines(tmp_path: Path) -> None:
    work = run(str(tmp_path), str(write_small_config(tmp_path)))
    assert {"MapWorker", "RayTrainWorker.run_train_fn", "_reference", "sees"} <= work
    manifest = json.loads(next((tmp_path / "run").glob("alignment-*/manifest.json")).read_text())
    assert 1 < manifest["metrics"]["worker_start_seconds"] < manifest["seconds"]
