"""The progress line, on a terminal and in a file."""

from __future__ import annotations

import contextlib
import io
import time

from pdray.console import Console
from pdray.progress import Pace, Progress, clock, describe


def test_rate_and_time_left():
    assert describe(50, 200, "rows", 10.0, 5.0) == "50/200 rows · 5.0 rows/s · 0:30 left"
    assert describe(6, 8, "heads", 150.0, 0.04) == "6/8 heads · 0.04 heads/s · 0:50 left"


def test_finished():
    assert describe(200, 200, "rows", 10.0, 20.0) == "200/200 rows · 20.0 rows/s · done in 0:10"


def test_a_retried_task_never_shows_more_than_all():
    assert describe(230, 200, "rows", 10.0, 23.0).startswith("200/200 rows")


def test_nothing_yet_and_total_unknown():
    assert describe(0, 200, "steps", 3.0, None) == "0/200 steps · 0:03 so far"
    assert describe(7, None, "steps", 3.5, 2.0) == "7 steps · 2.0 steps/s · 0:04 so far"


def test_a_step_without_a_total_that_has_ended_is_done():
    assert describe(7, None, "steps", 3.5, 2.0, ended=True) == "7 steps · 2.0 steps/s · done in 0:04"
    assert describe(7, 9, "steps", 3.5, None, ended=True) == "7/9 steps · 0:04 so far"
    err = io.StringIO()
    with Progress(Console(io.StringIO(), err), "corpus").counting_here("checking rows") as counted:
        counted.add(600)
    assert err.getvalue().splitlines()[-1] == "corpus     checking rows: 600 rows · done in 0:00"
    with contextlib.suppress(OSError), Progress(Console(io.StringIO(), err), "corpus").counting_here("checking rows"):
        raise OSError("disk gone")
    assert err.getvalue().splitlines()[-1] == "corpus     checking rows: 0 rows · 0:00 so far"


def test_the_rate_leaves_out_the_start_of_the_workers():
    pace = Pace()
    assert [pace.rate(0, 100.0), pace.rate(64, 160.0), pace.rate(64, 161.0)] == [None, None, None]
    assert pace.rate(128, 164.0) == 16.0


def test_clock():
    assert [clock(s) for s in (5, 65, 3700)] == ["0:05", "1:05", "1:01:40"]


def test_piped_progress_is_whole_lines_and_few():
    err = io.StringIO()
    console = Console(io.StringIO(), err)
    for done in range(100):
        console.progress(f"{done}")
    console.progress("all", final=True)
    assert err.getvalue().splitlines() == ["0", "all"]


def test_workers_are_counted(ray_local):
    import ray

    err = io.StringIO()
    with Progress(Console(io.StringIO(), err), "scores").counting("scoring", total=30) as counter:
        ray.get([ray.remote(lambda c: c.add(10)).remote(counter) for _ in range(3)])
    assert "scores     scoring: 30/30 rows" in err.getvalue().splitlines()[-1]


def test_the_start_of_workers_is_timed_by_the_first_that_says_so(ray_local):
    import ray

    began = time.monotonic()
    with Progress(Console(io.StringIO(), io.StringIO()), "alignment").counting("DPO", unit="steps") as counter:
        counter.ask()
        assert counter.start_seconds() is None
        say = ray.remote(lambda c: c.started())
        ray.get(say.remote(counter))
        while (found := counter.start_seconds()) is None and time.monotonic() < began + 30:
            time.sleep(0.05)  # what a worker says is on its way
        assert found is not None
        assert 0 < found < time.monotonic() - began
        ray.get(say.remote(counter))
        time.sleep(0.2)
        assert counter.start_seconds() == found
    assert counter.start_seconds() is None, "an actor that is gone fails no training"


def test_a_part_has_its_own_name_unit_and_rate():
    err = io.StringIO()
    with Progress(Console(io.StringIO(), err), "alignment").counting_here("DPO", unit="steps") as counted:
        counted.set(8, 40, ("reference", "pairs"))
    assert err.getvalue().startswith("alignment  reference: 8/40 pairs")
