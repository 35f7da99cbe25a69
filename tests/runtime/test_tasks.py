"""Passes over shards: sums of what each shard gives, and workers that die."""

from __future__ import annotations

import io
import os

import pytest

from pdray.console import Console
from pdray.errors import UserError
from pdray.progress import Counted, Progress
from pdray.runtime import tasks
from pdray.shards import Outcome


def quiet() -> Progress:
    return Progress(Console(io.StringIO(), io.StringIO()), "selection")


@pytest.mark.parametrize("num_shards", [1, 3, 23])
def test_every_shard_is_added_once(ray_local, num_shards):
    err = io.StringIO()
    progress = Progress(Console(io.StringIO(), err), "selection")
    assert tasks.sum_over_shards(lambda shard: 10**6 + shard, num_shards, progress, "cut") == (
        num_shards * 10**6 + sum(range(num_shards))
    )
    assert f"selection  cut: {num_shards}/{num_shards} shards" in err.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    ("cpus", "may_come", "groups"), [(0, False, 1), (0, True, 64), (4, True, 64), (4, False, 8), (50, True, 100)]
)
def test_an_autoscaler_whose_nodes_are_not_there_yet_sees_more_than_one_task(monkeypatch, cpus, may_come, groups):
    monkeypatch.setattr(tasks, "living", lambda resource: cpus)
    monkeypatch.setattr(tasks, "nodes_may_come", lambda: may_come, raising=False)
    assert len(tasks.shard_groups(1000)) == groups
    assert tasks.shard_groups(2)[0] == ([0] if groups > 1 else [0, 1])


def test_what_a_user_can_mend_is_raised_as_itself(ray_local):
    def refuse(shard: int) -> int:
        raise UserError(f"shard {shard} is damaged")

    with pytest.raises(UserError, match=r"^shard 0 is damaged$"):
        tasks.sum_over_shards(refuse, 1, quiet(), "cut")


def test_a_shard_whose_worker_dies_is_one_that_failed(ray_local, monkeypatch):
    monkeypatch.setattr(tasks, "RETRIES", 0)

    def attempt(shard: int) -> Outcome:
        if shard == 1:
            os._exit(1)
        return Outcome(shard)

    counted = Counted()
    found = {outcome.shard: outcome.error for outcome in tasks.outcomes(attempt, [0, 1, 2], counted)}
    assert sorted(found) == [0, 1, 2]
    assert found[0] is None
    assert found[2] is None
    assert "WorkerCrashed" in found[1]
    assert counted.under_way() == []


def test_storage_that_fails_now_and_then_is_asked_again(ray_local, tmp_path):
    def flaky(shard: int) -> int:
        mark = tmp_path / f"{shard}"
        if not mark.exists():
            mark.touch()
            raise OSError("slow down")
        return 1

    assert tasks.sum_over_shards(flaky, 1, quiet(), "cut") == 1
