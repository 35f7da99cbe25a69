"""From scoring to DPO on a real Ray: every engine's process is gone before a worker of the training is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.chaos.cluster import family, title
from benchmarks.chaos.runs import manifest
from pdray.storage import StoragePath
from tests.whole_run import write_small_config, write_yaml

LIMIT = 1500.0
LOOK_SECONDS = 0.1
ENGINE, TRAINER = "ShardScorer", "RayTrainWorker"


@dataclass
class Seen:
    """Processes of a kind.

    Attributes:
        first, last: when one was there, in seconds of the monotonic clock.
        pids: of all.
    """

    first: float = float("inf")
    last: float = 0.0
    pids: set[int] = field(default_factory=set)

    def look(self, kind: str, processes: list[psutil.Process]) -> None:
        found = {one.pid for one in processes if kind in title(one)}
        if found:
            self.first, self.last = min(self.first, time.monotonic()), time.monotonic()
            self.pids |= found


@pytest.mark.slow
def test_engines_are_gone_before_the_training_has_workers(tmp_path: Path) -> None:
    config = write_small_config(tmp_path)
    settings = yaml.safe_load(config.read_text())
    settings["cluster"] = {"num_cpus": 2}
    settings["proxies"] |= {"train": "head", "reading": "together", "share": 0.8}
    settings["scores"] |= {"engine": "vllm", "cpu_cache_gib": 0.25}
    write_yaml(config, settings)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "pdray", "run", str(config)]
    engines, trainers, end = Seen(), Seen(), time.monotonic() + LIMIT
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
    while run.poll() is None and time.monotonic() < end:
        processes = family(run.pid)
        engines.look(ENGINE, processes)
        trainers.look(TRAINER, processes)
        time.sleep(LOOK_SECONDS)
    run.kill()
    assert run.wait() == 0, (tmp_path / "log").read_text()
    assert engines.pids and len(trainers.pids) == settings["alignment"].get("num_workers", 2)
    assert engines.last < trainers.first
    start = manifest(StoragePath(settings["run"]), "alignment")["metrics"]["worker_start_seconds"]
    assert 0 < start < trainers.last - engines.last
    print(f"{trainers.first - engines.last:.1f} s from the last engine to the first worker, which started in {start} s")
