"""How often the workers that train proxies are started again, and from where they go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import launch
from pdray.proxies.data import BASELINE, TRAIN
from pdray.proxies.done import write_done
from pdray.proxies.training import TrainingJob
from pdray.storage import StoragePath


@pytest.fixture
def jobs(tmp_path: Path) -> list[TrainingJob]:
    """Two models of 10 steps, and 10 for the baseline of each."""
    stage = StoragePath(str(tmp_path / "stage"))
    proxies = ProxiesConfig(base_model="/models/base", batch_size=4, max_failures=1)
    tables = {use: stage / f"{use}.parquet" for use in (BASELINE, TRAIN)}
    return [TrainingJob(name, [name], tables, stage / "held", [40], 40, stage, proxies, 0) for name in ("a", "b")]


def keep(job: TrainingJob, use: str, step: int) -> None:
    local = job.stage.local.parent / "local"
    local.mkdir(exist_ok=True)
    (local / "state").write_bytes(b"state")
    job.checkpoints(use).keep(local, step)


def finish(job: TrainingJob) -> None:
    (job.stage / job.name / "model").write_bytes(b"weights")
    write_done(job.stage, job.name, {}, pa.table({job.name: [0.0]}))


class FakeAttempts:
    """Stands in for Ray Train runs that fail, each after what a function of its number did, until there is none."""

    def __init__(self, *before_death: Callable[[], Any], cause: Exception | None = None) -> None:
        self.before_death, self.begun = before_death, 0
        self.cause = cause or RuntimeError("the node is gone")

    def __call__(self, jobs: list[TrainingJob]) -> None:
        from ray.train import WorkerGroupError

        self.begun += 1
        if self.begun <= len(self.before_death):
            self.before_death[self.begun - 1]()
            raise WorkerGroupError("workers failed", {0: self.cause})


def nothing() -> None:
    """An attempt that brings nothing."""


def test_failures_do_not_count_while_each_attempt_comes_further(
    jobs: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red where every failure counts."""
    first, second = jobs
    attempts = FakeAttempts(
        nothing,
        lambda: keep(first, BASELINE, 4),
        lambda: first.baseline_margins.write_table(pa.table({"a": [0.0]})),
        nothing,
        lambda: keep(first, TRAIN, 8),
        lambda: finish(first),
        lambda: keep(second, BASELINE, 2),
    )
    notes: list[str] = []
    monkeypatch.setattr(launch, "_attempt", attempts)
    launch.fit(jobs, notes.append)
    assert attempts.begun == 8
    assert notes[0] == (
        "the workers that train a, b failed (RuntimeError: the node is gone); going on from step 0 of 40"
    )
    places = [int(note.split(" from step ")[1].split()[0]) for note in notes]
    assert places == [0, 4, 10, 10, 18, 20, 22]


def test_attempts_that_bring_nothing_end_it(jobs: list[TrainingJob], monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = FakeAttempts(lambda: keep(jobs[0], TRAIN, 4), nothing, nothing, nothing)
    monkeypatch.setattr(launch, "_attempt", attempts)
    with pytest.raises(RuntimeError, match=r"^the training of a, b failed: RuntimeError: the node is gone$"):
        launch.fit(jobs, print)
    assert attempts.begun == 3


def test_what_a_worker_refuses_is_not_tried_again(jobs: list[TrainingJob], monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = UserError("the proxy a diverged; lower proxies.learning_rate")
    attempts = FakeAttempts(lambda: keep(jobs[0], TRAIN, 4), cause=refusal)
    monkeypatch.setattr(launch, "_attempt", attempts)
    with pytest.raises(UserError, match=r"^the proxy a diverged"):
        launch.fit(jobs, print)
    assert attempts.begun == 1
