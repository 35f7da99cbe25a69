"""How often workers that fail are started again: as long as they come further, and a few times in vain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pdray.alignment import launch
from pdray.alignment.inputs import PairInput
from pdray.alignment.reference import ReferenceStore
from pdray.alignment.worker import TrainingJob
from pdray.storage import StoragePath
from tests import dpo_case


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    store = ReferenceStore(StoragePath(str(tmp_path / "reference")))
    pairs = PairInput([], "", pairs=0, prompts_cut=0, responses_cut=0, empty=0)
    settings = dpo_case.alignment(Path("/models/policy"), max_failures=1)
    return TrainingJob(settings, 3, pairs, store, tmp_path / "alignment", dpo_case.SilentCounter())


class FakeAttempts:
    """Stands in for worker groups that die, each after what a function of its number did."""

    def __init__(self, before_death: Callable[[int], None], deaths: int) -> None:
        self.before_death, self.deaths, self.begun = before_death, deaths, 0

    def __call__(self, job: TrainingJob) -> None:
        from ray.train import WorkerGroupError

        self.begun += 1
        if self.begun <= self.deaths:
            self.before_death(self.begun)
            raise WorkerGroupError("workers failed", {0: RuntimeError("the node is gone")})


def test_a_training_that_comes_further_is_started_as_often_as_it_takes(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, notes = FakeAttempts(lambda number: dpo_case.small_checkpoint(job.folder, 10 * number), deaths=20), []
    monkeypatch.setattr(launch, "_attempt", attempts)
    launch.fit(job, notes.append)
    assert attempts.begun == 21
    assert notes[-1] == "the workers failed (RuntimeError: the node is gone); going on from step 200"


def test_so_is_one_that_only_adds_to_the_reference(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(number: int) -> None:
        job.reference.add(np.array([number], np.uint64), np.zeros((1, 2), np.float32))

    attempts = FakeAttempts(add, deaths=5)
    monkeypatch.setattr(launch, "_attempt", attempts)
    launch.fit(job, print)
    assert attempts.begun == 6


def test_one_that_stays_where_it_is_fails(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt brings a checkpoint, the next two bring nothing."""
    attempts = FakeAttempts(
        lambda number: dpo_case.small_checkpoint(job.folder, 10) if number == 1 else None, deaths=100
    )
    monkeypatch.setattr(launch, "_attempt", attempts)
    with pytest.raises(RuntimeError, match="DPO failed: RuntimeError: the node is gone"):
        launch.fit(job, print)
    assert attempts.begun == 3
