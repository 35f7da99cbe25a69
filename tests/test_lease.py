"""One driver at a time holds a run folder, wherever the others are and however they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pdray.errors import RunFolderBusyError, UserError
from pdray.lease import LEASE, Holder, Lease
from pdray.storage import StoragePath

TTL = 1.0
ELSEWHERE = Holder("somebody", "elsewhere boot pid:[1]", 7, 1, epoch=4, beat=9, seen=1.0)

HOLD = """
import sys, time
from pdray.lease import Lease
from pdray.storage import StoragePath
from pdray.errors import UserError
try:
    with Lease(StoragePath(sys.argv[1]), ttl=float(sys.argv[2])).hold():
        print("held", flush=True)
        time.sleep(60)
except UserError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def hold(folder: StoragePath, ttl: float = 30.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, folder.uri, str(ttl)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def put(folder: StoragePath, holder: Holder) -> None:
    (folder / LEASE).write_json(asdict(holder))


@pytest.fixture(autouse=True)
def exists(request: pytest.FixtureRequest) -> None:
    """A run folder is there before its lease."""
    if "folder" in request.fixturenames:
        request.getfixturevalue("folder").make_folder()


@pytest.fixture
def local(tmp_path: Path) -> StoragePath:
    return StoragePath(str(tmp_path))


def test_held_once_and_let_go(folder: StoragePath) -> None:
    lease = Lease(folder)
    assert not lease.is_held()
    with lease.hold():
        assert Lease(folder).is_held()
        busy = pytest.raises(RunFolderBusyError, match=f"is in use by process {os.getpid()} on ")
        with busy as caught, Lease(folder).hold():
            pass
        assert caught.value.exit_code == 3
    assert not Lease(folder).is_held()
    assert folder.sizes() == {}
    with Lease(folder).hold():
        pass


def test_a_holder_that_was_killed_here_is_succeeded_at_once(folder: StoragePath) -> None:
    holder = hold(folder)
    try:
        assert line(holder) == "held"
        assert Lease(folder).is_held()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        start = time.monotonic()
        assert not Lease(folder).is_held()
        with Lease(folder).hold():
            assert time.monotonic() - start < 5, "a dead process was waited for"
            found = Lease(folder).holder()
            assert found is not None
            assert (found.epoch, found.pid) == (2, os.getpid())
    finally:
        end(holder)


def test_a_process_id_that_was_given_again_is_another_process(local: StoragePath) -> None:
    mine = Lease(local)._mine
    put(local, replace(mine, owner="before", started=mine.started - 1))
    assert not Lease(local).is_held()
    with Lease(local).hold():
        pass


def test_silence_elsewhere_is_waited_for_and_then_succeeded(folder: StoragePath) -> None:
    put(folder, ELSEWHERE)
    start = time.monotonic()
    with Lease(folder, ttl=TTL).hold():
        assert time.monotonic() - start >= TTL
        found = Lease(folder).holder()
        assert found is not None
        assert found.epoch == ELSEWHERE.epoch + 1


def test_a_beat_elsewhere_is_a_life(folder: StoragePath) -> None:
    put(folder, ELSEWHERE)
    threading.Timer(TTL / 2, put, [folder, replace(ELSEWHERE, beat=10)]).start()
    with pytest.raises(RunFolderBusyError, match="process 7 on elsewhere"), Lease(folder, ttl=2 * TTL).hold():
        pass
    assert Lease(folder).holder() == replace(ELSEWHERE, beat=10)


def test_a_clock_that_is_wrong_does_no_harm(local: StoragePath) -> None:
    for seen in (0.0, time.time() + 1e6):
        put(local, replace(ELSEWHERE, seen=seen))
        with Lease(local, ttl=TTL).hold():
            pass


def test_a_holder_elsewhere_that_lets_go_while_it_is_watched(local: StoragePath) -> None:
    put(local, ELSEWHERE)
    threading.Timer(TTL / 2, (local / LEASE).delete).start()
    start = time.monotonic()
    with Lease(local, ttl=60).hold():
        assert time.monotonic() - start < 10


def test_a_driver_that_lets_go_is_waited_for(local: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.lease.BEAT_SECONDS", 0.1)
    said: list[str] = []
    held = threading.Event()

    def hold_for_a_while() -> None:
        with Lease(local).hold():
            held.set()
            time.sleep(0.5)

    first = threading.Thread(target=hold_for_a_while)
    first.start()
    assert held.wait(10)
    with Lease(local).hold(wait=30.0, say=said.append):
        assert Lease(local).is_held()
    first.join()
    who = f"process {os.getpid()} on {os.uname().nodename}"
    assert said == [f"{local} is in use by {who}; waiting up to 30 s for it to end"]


def test_a_driver_that_lives_on_is_waited_for_no_longer_than_asked(
    local: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdray.lease.BEAT_SECONDS", 0.1)
    start = time.monotonic()
    with Lease(local).hold(), pytest.raises(RunFolderBusyError, match="is in use"), Lease(local).hold(wait=0.5):
        pass
    assert time.monotonic() - start >= 0.5


def test_the_holder_beats(folder: StoragePath) -> None:
    with Lease(folder, ttl=TTL).hold():
        first = Lease(folder).holder()
        time.sleep(TTL)
        later = Lease(folder).holder()
        assert first is not None
        assert later is not None
        assert (later.owner, later.beat > first.beat) == (first.owner, True)


@pytest.mark.parametrize("dead", [True, False])
def test_of_two_one_succeeds_a_dead_holder(local: StoragePath, dead: bool) -> None:
    mine = Lease(local)._mine
    for _ in range(3):
        if dead:
            put(local, replace(mine, owner="before", started=mine.started - 1))
        racers = [hold(local) for _ in range(3)]
        try:
            said = sorted((line(racer) for racer in racers), key=len)
            assert said[0] == "held"
            assert all("is in use by process" in text for text in said[1:])
        finally:
            for racer in racers:
                end(racer)
            (local / LEASE).delete()


def test_a_driver_that_lost_its_lease_stops_in_the_middle_with_code_3(folder: StoragePath) -> None:
    driver = hold(folder, TTL)
    try:
        assert line(driver) == "held"
        put(folder, ELSEWHERE)
        start = time.monotonic()
        out, err = driver.communicate(timeout=30)
        assert time.monotonic() - start < 15, "it slept on"
        assert driver.returncode == 3, err
        assert "is in use by process 7 on elsewhere; wait for it to end" in out
        assert err == ""
        assert Lease(folder).holder() == ELSEWHERE, "it let go of what is not its own"
    finally:
        end(driver)


def test_no_shell_has_the_stop_ignored(local: StoragePath) -> None:
    """A driver in the background of a script ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        driver = hold(local, TTL)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert line(driver) == "held"
        put(local, ELSEWHERE)
        driver.communicate(timeout=30)
        assert driver.returncode == 3
    finally:
        end(driver)


def test_outside_the_main_thread_a_loss_is_found_at_the_end(local: StoragePath) -> None:
    raised: list[Exception] = []

    def work() -> None:
        try:
            with Lease(local, ttl=TTL).hold():
                until = time.monotonic() + TTL
                while time.monotonic() < until:  # once alone might fall between a heartbeat's look and its write
                    put(local, ELSEWHERE)
                    time.sleep(TTL / 20)
        except UserError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [type(error) for error in raised] == [RunFolderBusyError]


def test_the_signal_is_given_back(local: StoragePath) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Lease(local).hold():
        assert signal.getsignal(signal.SIGUSR1) != before
    assert signal.getsignal(signal.SIGUSR1) == before


def test_an_error_of_the_block_is_not_the_leases(local: StoragePath) -> None:
    for error in (OSError(28, "No space left on device"), UserError("mend it"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, Lease(local).hold():
            raise error
        assert caught.value is error
    assert not Lease(local).is_held()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"owner": 1}',
        "\x00\x01",
        json.dumps({**asdict(ELSEWHERE), "pid": "x"}),
        json.dumps({**asdict(ELSEWHERE), "seen": []}),
        json.dumps({**asdict(ELSEWHERE), "seen": 10**400}),
    ],
)
def test_a_lease_of_rubbish_holds_nothing(local: StoragePath, text: str) -> None:
    (local / LEASE).write_bytes(text.encode())
    assert not Lease(local).is_held()
    with Lease(local).hold():
        assert Lease(local).is_held()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_named_and_never_waits(local: StoragePath, make: Callable[[Path], None]) -> None:
    make((local / LEASE).local)
    for use in (Lease(local).is_held, lambda: Lease(local).hold().__enter__()):
        with pytest.raises(UserError, match=r"lease\.json is no file; remove it and run again"):
            use()


def test_a_storage_that_does_not_answer_is_not_free(local: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local, ELSEWHERE)

    def fail(*_: object) -> bytes:
        raise OSError("Input/output error")

    monkeypatch.setattr(StoragePath, "read_bytes", fail)
    with pytest.raises(UserError, match=r"cannot write to the run folder .*Input/output error"), Lease(local).hold():
        pass
    monkeypatch.undo()
    assert Lease(local).holder() == ELSEWHERE


def test_an_outage_while_it_is_held_is_survived(local: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("Input/output error")

    with Lease(local, ttl=TTL).hold():
        with monkeypatch.context() as patch:
            patch.setattr(StoragePath, "write_bytes", fail)
            time.sleep(TTL / 2)
        before = Lease(local).holder()
        time.sleep(TTL / 2)
        after = Lease(local).holder()
    assert before is not None
    assert after is not None
    assert after.beat > before.beat
