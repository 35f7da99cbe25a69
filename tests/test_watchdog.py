"""What stands still is said: which stage, which shard, who is at it, since when."""

from __future__ import annotations

import io
import re

from pdray import watchdog
from pdray.console import Console
from pdray.progress import Progress
from pdray.runtime.tasks import sum_over_shards
from pdray.watchdog import Watchdog


class FakeClock:
    """Stands for the monotonic clock."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def told_after(seconds: list[float], **saw: object) -> list[str]:
    """What a watchdog says that looks at these seconds after the one time that it saw something."""
    told: list[str] = []
    clock = FakeClock()
    dog = Watchdog(told.append, 300, clock)
    if saw:
        dog.saw(**saw)  # type: ignore[arg-type]
    for clock.seconds in seconds:
        dog.look()
    return told


def test_progress_in_time_is_not_spoken_of() -> None:
    assert told_after([1, 299], at="scoring: 3/10 texts", count=3) == []


def test_a_stall_names_step_and_shards_the_longest_first() -> None:
    under_way = [("shard 7", "process 12 on a", 200.0), ("shard 3", "process 9 on b", 310.0)]
    (line,) = told_after([301, 302], at="scoring: 3/10 texts", count=3, under_way=lambda: under_way)
    assert re.fullmatch(
        r"no progress for 5:01 \(since \d\d:\d\d:\d\d\): scoring: 3/10 texts; "
        r"shard 3 in process 9 on b for 5:10, shard 7 in process 12 on a for 3:20",
        line,
    )


def test_many_shards_are_counted() -> None:
    many = [(f"shard {number}", "a Ray task", float(number)) for number in range(8)]
    (line,) = told_after([300], at="cut: 0/8 shards", count=0, under_way=lambda: many)
    assert line.endswith("shard 3 in a Ray task for 0:03, 3 more")


def test_a_stall_without_anybody_at_work_says_so() -> None:
    (line,) = told_after([300], at="scoring: 0/10 texts", count=0, under_way=list)
    assert line.endswith("; no worker is at a shard, Ray may be waiting for CPUs or GPUs")


def test_a_stage_that_counts_nothing_is_watched_too() -> None:
    (line,) = told_after([300])
    assert line.endswith(": nothing was counted yet")


def test_it_speaks_again_after_twice_the_time_and_when_it_goes_on() -> None:
    told: list[str] = []
    clock = FakeClock()
    dog = Watchdog(told.append, 300, clock)
    dog.saw("cut: 1/9 shards", 1)
    for clock.seconds in (300, 500, 600, 1199, 1200):
        dog.look()
    dog.saw("cut: 1/9 shards", 1)
    dog.saw("cut: 2/9 shards", 2)
    clock.seconds += 299
    dog.look()
    assert [line.partition(" (")[0] for line in told] == [
        "no progress for 5:00",
        "no progress for 10:00",
        "no progress for 20:00",
        "goes on after 20:00: cut: 2/9 shards",
    ]


def test_workers_of_a_real_step_are_named(ray_local, monkeypatch) -> None:
    import ray

    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.1)
    out = io.StringIO()
    progress = Progress(Console(out, io.StringIO()), "scores")
    progress.watchdog = Watchdog(progress.note, 2.0)

    def work(counter):
        import time

        with counter.working("shard 4"):
            time.sleep(5)
        counter.add(1)

    with progress.watchdog.watching(), progress.counting("scoring", 1, "texts") as counter:
        ray.get(ray.remote(work).remote(counter))
    said = r"scores     no progress for 0:02 .*: scoring: 0/1 texts; shard 4 in process \d+ on \S+ for 0:0\d\n"
    assert re.search(said, out.getvalue())


def test_tasks_of_a_pass_are_named(ray_local, monkeypatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.1)
    out = io.StringIO()
    progress = Progress(Console(out, io.StringIO()), "selection")
    progress.watchdog = Watchdog(progress.note, 1.5)

    def slow(shard: int) -> int:
        import time

        time.sleep(3)
        return 1

    with progress.watchdog.watching():
        assert sum_over_shards(slow, 1, progress, "cut") == 1
    assert "cut: 0/1 shards; shard 0 in a Ray task for 0:0" in out.getvalue()
