"""The view on a terminal, through a pseudo-terminal: what stands there, what stays, and that nothing is left behind."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pdray import live
from pdray.console import Console
from pdray.live import StepState
from pdray.progress import Counted, Progress
from pdray.watchdog import Watchdog
from tests.terminal import Terminal

STAGES = {"corpus": "done", "proxies": "to run", "scores": "to run", "selection": "to run", "alignment": "to run"}
LINE = "1,200/4,800 texts · 12.5 texts/s · 4:48 left"
STEP = StepState("scoring", LINE, 0.25, 2, 72.0)


@pytest.fixture(autouse=True)
def a_terminal_that_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live, "REFRESH_SECONDS", 60.0)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: 0.0))  # however slow the machine is


def test_stages_counts_workers_memory_and_silence_are_shown() -> None:
    terminal = Terminal(80)
    console = Console(terminal.stream, terminal.stream)
    with console.showing(STAGES):
        console.stage("proxies", "done")
        console.stage("scores", "running")
        console.progress("", step=STEP)
        stages, bar, counts, facts, more = terminal.lines()
        filled, rest = (len(run) // 3 for run in re.findall(b"(?:\xe2\x94\x81)+", terminal.written)[-2:])
        console.progress("", step=StepState("scoring", LINE, 0.0))
        assert terminal.lines()[1].endswith("━ 0%")
    assert stages.split("  ") == ["✓ corpus", "✓ proxies", "▸ scores", "selection", "alignment"]
    assert bar.startswith("scoring ━━━━") and bar.endswith(" 25%") and len(bar) == 80
    assert filled / (filled + rest) == pytest.approx(0.25, abs=0.02)
    assert counts == LINE
    assert facts.startswith("0:00 in scores · 0:00 in all · 2 workers at work · memory ")
    assert f"{facts} {more}".endswith(" GiB here · no progress for 1:12")
    assert terminal.lines() == []


def test_lines_stay_above_the_view_in_their_order_and_whole() -> None:
    terminal = Terminal(40)
    console = Console(terminal.stream, terminal.stream)
    with console.showing(STAGES):
        console.stage("scores", "running")
        for done in range(20):
            console.progress("", step=StepState("scoring", f"{done}/20 texts", done / 20))
        console.say("scores     a note that is longer than such a narrow terminal is wide")
        assert "scoring ━" in "\n".join(terminal.lines())
        console.progress("scores     scoring: 20/20 texts · done in 0:01", final=True, step=STEP)
        assert "scoring ━" not in "\n".join(terminal.lines())
        assert "0:00 in scores" in "\n".join(terminal.lines())
    console.say("the end")
    console.progress("corpus     1 row", final=True)
    assert terminal.lines() == [
        "scores     a note that is longer than su",
        "ch a narrow terminal is wide",
        "scores     scoring: 20/20 texts · done i",
        "n 0:01",
        "the end",
        "corpus     1 row",
    ]
    console.progress("1 row")
    assert terminal.lines()[6] == "1 row"  # and none of the run's stages


def test_a_narrow_terminal_shows_all_of_it_in_more_lines() -> None:
    terminal = Terminal(24)
    console = Console(terminal.stream, terminal.stream)
    with console.showing(STAGES):
        console.stage("scores", "running")
        console.progress("", step=STEP)
        lines = terminal.lines()
    assert max(map(len, lines)) <= 24
    shown = " ".join(" ".join(lines).split())
    assert all(word in shown for word in (*STAGES, "1,200/4,800 texts", "4:48 left", "25%", "2 workers", "1:12"))
    assert terminal.lines() == []


def test_steps_outside_a_run_are_shown_and_go() -> None:
    terminal = Terminal(80)
    console = Console(terminal.stream, terminal.stream)
    console.progress("data: 1,000 rows read")
    assert terminal.lines()[0] == "data: 1,000 rows read"
    console.clear()
    assert terminal.lines() == []
    console.say("said")
    assert terminal.lines() == ["said"]
    console.progress("data: 2,000 rows read")
    console.progress("data: 2,000 rows read in all", final=True)
    assert terminal.lines() == ["said", "data: 2,000 rows read in all"]


def test_times_go_on_by_themselves_and_a_view_that_was_taken_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    memory = SimpleNamespace(total=8 * live.GIB, available=2 * live.GIB)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.02)
    terminal = Terminal(80)
    console = Console(terminal.stream, terminal.stream)
    printing = sys.stdout
    console.progress("data: 1,000 rows read")
    clock.now = 100.0
    with console.showing(STAGES):
        clock.now = 160.0
        console.stage("scores", "running")
        clock.now = 190.0
        lines = terminal.wait_for("0:30 in scores")
        assert lines[-1] == "0:30 in scores · 1:30 in all · memory 6.0 of 8.0 GiB here"
        assert sys.stdout is printing, "what others print does not go to the terminal"
        console.clear()
        time.sleep(0.1)
        assert terminal.lines() == []


def test_a_new_stage_begins_without_the_step_of_the_one_before() -> None:
    terminal = Terminal(80)
    console = Console(terminal.stream, terminal.stream)
    with console.showing(STAGES):
        console.progress("", step=STEP)
        console.stage("selection", "running")
        assert len(terminal.lines()) == 2


def test_the_cursor_is_never_left_hidden() -> None:
    terminal = Terminal(80)
    console = Console(terminal.stream, terminal.stream)
    with console.showing(STAGES):
        console.progress("", step=STEP)
        terminal.lines()
        assert terminal.written.rindex(b"\x1b[?25h") > terminal.written.rindex(b"\x1b[?25l")


def test_a_terminal_that_was_closed_fails_nothing() -> None:
    terminal = Terminal(80)
    console = Console(io.StringIO(), terminal.stream)
    with console.showing(STAGES):
        terminal.hang_up()
        console.progress("", step=STEP)
        console.stage("scores", "running")
    terminal = Terminal(80)
    with Console(io.StringIO(), terminal.stream).showing(STAGES):
        terminal.hang_up()


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(80)
    console = Console(terminal.stream, terminal.stream)
    with console.showing(STAGES):
        console.stage("scores", "running")
        console.progress("scores     scoring: 0/9 texts", step=STEP)
        console.progress("scores     scoring: 9/9 texts", final=True, step=STEP)
    assert terminal.lines() == ["scores     scoring: 0/9 texts", "scores     scoring: 9/9 texts"]


def test_what_the_driver_counts_reaches_the_view() -> None:
    terminal = Terminal(80)
    with Progress(Console(terminal.stream, terminal.stream), "selection").counting_here("cut", 4, "shards") as counted:
        counted.begin("shards 0 to 1", "a Ray task")
        counted.add(1)
        lines = terminal.wait_for("1/4 shards")
        counted.set(9, 8)  # a task that was run again counted twice
        assert terminal.wait_for("8/8 shards")[0].endswith("100%")
        counted.set(1, 4)
    assert "no progress" not in " ".join(lines)
    assert lines[0].startswith("cut ━") and lines[0].endswith("25%")
    assert "1 worker at work" in lines[2]
    (final,) = terminal.lines()
    assert final.startswith("selection  cut: 1/4 shards · ")


def test_a_step_that_stands_still_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchdog, "silence", 99.0)
    terminal = Terminal(80)
    with Progress(Console(terminal.stream, terminal.stream), "selection").counting_here("cut", 4, "shards"):
        terminal.wait_for("no progress for 1:39")


def test_workers_are_told_apart_by_process_and_tasks_by_themselves() -> None:
    counted = Counted()
    assert counted.get() == (0, None, None, None)
    for label, who in (("shard 1", "process 7"), ("shard 2", "process 7"), ("3", "a Ray task"), ("4", "a Ray task")):
        counted.begin(label, who)
    assert counted.get()[3] == 3
    counted.end("4")
    assert counted.get()[3] == 2


STOPPED = """
import sys, time
from types import SimpleNamespace
from pdray.cli.ending import exit_code
from pdray.console import Console
from pdray.live import StepState
from pdray.errors import UserError

def act(args):
    console = Console()
    try:
        with console.showing({"scores": "to run"}):
            console.stage("scores", "running")
            console.progress("", step=StepState("scoring", "1/9 texts", 0.1))
            if args.wrong:
                raise UserError("max_failed is too low; raise it")
            time.sleep(30)
    finally:
        console.clear()

sys.exit(exit_code(act, SimpleNamespace(only_prints=False, wrong=len(sys.argv) > 1)))
"""
INTERRUPTED = "pdray: interrupted; the same command continues where it stopped"


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("ctrl-c", 130, INTERRUPTED),
        ("term", 143, INTERRUPTED),
        ("wrong", 2, "pdray: max_failed is too low; raise it"),
    ],
)
def test_it_goes_when_the_command_ends(how: str, code: int, line: str) -> None:
    terminal = Terminal(80)
    words = [sys.executable, "-c", STOPPED, *(["wrong"] if how == "wrong" else [])]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    process = subprocess.Popen(words, **streams, start_new_session=True, preexec_fn=_controlled)  # type: ignore[call-overload]
    if how != "wrong":
        terminal.wait_for("1/9 texts")
        terminal.type(b"\x03") if how == "ctrl-c" else process.send_signal(signal.SIGTERM)
    assert process.wait(20) == code
    shown = [one for one in terminal.lines() if one != "^C"]
    assert shown == [line]


def _controlled() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
