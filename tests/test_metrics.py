"""What Prometheus is told: the names that the dashboard asks for are those that the code counts by."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import yaml

from pdray import metrics
from pdray.console import Console
from pdray.progress import Progress
from pdray.shards import Outcome, ShardedFolder, ShardsFailedError, run_rounds
from pdray.storage import StoragePath

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "cluster" / "metrics"


class Told:
    """Stands for the metric of Ray: adds up what it is told, by its tags."""

    def __init__(self, name: str, about: str, tags: tuple[str, ...]) -> None:
        self.name, self.tags = name, tags
        self.values: dict[tuple[str, ...], float] = {}

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert sorted(tags) == sorted(self.tags)
        return tuple(tags[name] for name in self.tags)

    def inc(self, number: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = self.values.get(self._key(tags), 0) + number

    def set(self, number: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = number


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Told]:
    """What a Ray that stands in for the real one was told, by metric."""
    found: dict[str, Told] = {}

    def made(name: str, about: str, tags: tuple[str, ...]) -> Told:
        return found.setdefault(name, Told(name, about, tags))

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ray.util", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.util.metrics", SimpleNamespace(Counter=made, Gauge=made))
    return found


def test_rounds_count_finished_pairs_and_failed_shards(told: dict[str, Told], tmp_path: Path) -> None:
    shards = ShardedFolder(StoragePath(str(tmp_path)), "print", 3)
    tries: list[int] = []

    def attempt(missing: Sequence[int]) -> list[Outcome]:
        """Shard 2 fails at the first try and is lost in the others."""
        tries.append(len(missing))
        for shard in missing:
            if shard < 2:
                shards.write(shard, {"pairs": pa.table({"pair_id": ["a"] * (shard + 3)})}, 0, {})
        return [Outcome(shard, "full disk" if shard == 2 else None) for shard in missing if shard < 2 or len(tries) < 2]

    with metrics.of_stage("corpus"), pytest.raises(ShardsFailedError):
        run_rounds(shards, attempt, lambda text: None)
    assert tries == [3, 1, 1]
    assert told["pdray_pairs"].values == {("corpus",): 7}
    assert told["pdray_failures"].values == {("corpus", "shard"): 3}


def test_the_progress_line_is_told_with_what_waits_and_who_works(told: dict[str, Told]) -> None:
    progress = Progress(Console(io.StringIO(), io.StringIO()), "selection")
    with progress.running(), progress.counting_here("cut", 9, "shards") as counted:
        counted.begin("shard 1", "a Ray task")
        counted.add(4)
        wait_for(lambda: "pdray_workers" in told and told["pdray_done"].values.get(("selection", "cut", "shards")) == 4)
        names = ("done", "queue", "workers")
        assert [next(iter(told[f"pdray_{name}"].values.items())) for name in names] == [
            (("selection", "cut", "shards"), 4),
            (("selection", "cut", "shards"), 5),
            (("selection",), 1),
        ]
    assert told["pdray_queue"].values == {("selection", "cut", "shards"): 0}
    assert told["pdray_workers"].values == {("selection",): 0}


def test_without_a_stage_or_a_ray_nothing_is_told(told: dict[str, Told], monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.count(metrics.PAIRS, 3)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with metrics.of_stage("scores"):
        metrics.count(metrics.PAIRS, 3)
        metrics.level(metrics.WORKERS, 3)
    assert told == {}


def test_the_dashboard_is_what_its_list_gives() -> None:
    script = FOLDER / "dashboard.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (FOLDER / "pdray.json").read_text() == done.stdout, "python cluster/metrics/dashboard.py > .../pdray.json"


def test_the_dashboard_asks_for_every_metric_by_the_labels_that_it_has() -> None:
    panels = json.loads((FOLDER / "pdray.json").read_text())["panels"]
    asked = {}
    for panel in panels:
        (target,) = panel["targets"]
        labels, name = re.fullmatch(r"sum by \((.*?)\) \((?:rate\()?(\w+)(?:\[.*\]\))?\)", target["expr"]).groups()  # type: ignore[union-attr]
        asked[name] = tuple(labels.split(", "))
    assert asked == {metric.exported: ("stage", *metric.tags) for metric in metrics.METRICS}
    defined = [value for value in vars(metrics).values() if isinstance(value, metrics.Metric)]
    assert defined == list(metrics.METRICS)


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
