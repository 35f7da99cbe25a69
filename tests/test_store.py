"""A folder that looks complete is; two runs never share one; what is damaged is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdray.console import logs_to_file
from pdray.errors import RunFolderBusyError, UserError
from pdray.storage import StoragePath
from pdray.store import DamagedError, RunStore, fingerprint, read_attempts, read_manifest, read_spent
from tests.s3 import S3Server

PRINT = "abcdef01" + "0" * 56
MANIFEST: dict[str, Any] = {
    "fingerprint": PRINT,
    "rows_out": 1,
    "quarantined": 0,
    "seconds": 1.5,
    "output": {},
    "metrics": {},
}
RUBBISH = ["", "{", "\x00", "[]", "[1]", "null", "7", "{}", '{"fingerprint": "a"}']

HOLD = """
import sys, time
from pdray.store import RunStore
with RunStore(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(folder: StoragePath) -> RunStore:
    """A run on the local disk, then one on object storage."""
    store = RunStore(folder.uri)
    store.make()
    return store


def test_a_folder_without_manifest_is_not_complete(store: RunStore) -> None:
    folder = store.stage_folder("scores", PRINT)
    assert folder.name == "scores-abcdef01"
    (folder / "half").write_bytes(b"")
    assert store.complete(folder, PRINT) is None
    store.finish(folder, MANIFEST)
    assert store.complete(folder, PRINT) == MANIFEST
    assert sorted(folder.sizes()) == ["half", "manifest.json"]


def test_a_folder_of_another_fingerprint_is_refused(store: RunStore) -> None:
    folder = store.stage_folder("scores", PRINT)
    store.finish(folder, {**MANIFEST, "fingerprint": "abcdef01" + "f" * 56})
    with pytest.raises(UserError, match="another configuration"):
        store.complete(folder, PRINT)


@pytest.mark.parametrize("text", RUBBISH)
def test_a_manifest_of_rubbish_is_named(tmp_path: Path, text: str) -> None:
    store = RunStore(tmp_path)
    folder = store.stage_folder("scores", PRINT)
    (folder / "manifest.json").write_bytes(text.encode())
    with pytest.raises(DamagedError, match=r"scores-abcdef01/manifest\.json is not"):
        store.complete(folder, PRINT)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_manifest_that_is_no_file_is_named_and_never_waits(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "manifest.json")
    with pytest.raises(DamagedError, match=r"manifest\.json is no file"):
        read_manifest(StoragePath(str(tmp_path)))


def test_a_stage_that_is_opened_again_is_unfinished_and_loses_nothing(store: RunStore) -> None:
    folder = store.stage_folder("scores", PRINT)
    for text in (b"first", b"second"):
        (folder / "manifest.json").write_bytes(text)
        store.reopen(folder)
        assert read_manifest(folder) is None
    store.reopen(folder)
    assert (folder / "manifest.json.damaged-1").read_bytes() == b"first"
    assert (folder / "manifest.json.damaged-2").read_bytes() == b"second"
    assert len(folder.sizes()) == 2


def test_a_folder_in_the_place_of_a_manifest_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "scores" / "manifest.json" / "a").mkdir(parents=True)
    RunStore(tmp_path).reopen(StoragePath(str(tmp_path / "scores")))
    assert (tmp_path / "scores" / "manifest.json.damaged-1" / "a").is_dir()


def test_attempts_are_counted(store: RunStore) -> None:
    folder = store.stage_folder("scores", PRINT)
    assert read_attempts(folder) == 0
    assert [store.begin(folder) for _ in range(3)] == [1, 2, 3]
    assert read_attempts(folder) == 3
    for text in RUBBISH:
        (folder / "attempts.json").write_bytes(text.encode())
        assert store.begin(folder) == 1


def test_the_second_run_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        store = RunStore(tmp_path)
        assert store.is_locked()
        with pytest.raises(RunFolderBusyError, match=f"process {holder.pid}") as caught, store.lock():
            pass
        assert caught.value.exit_code == 3
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with store.lock():
            assert store.is_locked() is True
        assert store.is_locked() is False
    finally:
        holder.kill()
        holder.communicate()


def test_who_holds_the_run_clears_what_killed_writers_left(tmp_path: Path) -> None:
    names = [".manifest.json.0123456789ab", "corpus-1/texts/.shard-00000.parquet.ffffffffffff"]
    others = [".manifest.json.0123456789abc", "corpus-1/texts/shard-00000.parquet", ".lock"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    young = tmp_path / ".run.json.aaaaaaaaaaaa"
    young.touch()
    os.utime(young, (time.time() + 60, time.time() + 60))
    with RunStore(tmp_path).lock():
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {*others, young.name, "lease.json"}


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder"), RunStore(tmp_path / "file").lock():
        pass


def test_a_bucket_that_does_not_exist_is_named(s3_server: S3Server) -> None:
    store = RunStore(s3_server.uri("run", bucket="nowhere"))
    with pytest.raises(UserError, match="does not exist; create it"), store.lock():
        pass


def test_a_storage_that_nobody_answers_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.filesystems.S3_ATTEMPTS", 1)
    store = RunStore("s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1")
    with pytest.raises(UserError, match=r"cannot write to the run folder .*onnect"), store.lock():
        pass
    with pytest.raises(UserError, match=r"run\.json.* cannot be read .*onnect"):
        store.read_state()


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Of a user who has set none."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("usual_umask")
def test_a_new_run_is_its_owners_alone(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs" / "mine")
    root = store.root.local
    with store.lock(), logs_to_file(root / "logs"):
        folder = store.stage_folder("corpus", PRINT)
        store.begin(folder)
        store.finish(folder, {})
        store.write_state({})
        files = ["lease.json", "run.json", f"{folder.name}/manifest.json", f"{folder.name}/attempts.json"]
        assert {name: mode(root / name) for name in files} == dict.fromkeys(files, 0o600)
    assert (mode(root), mode(root.parent), mode(root / "logs/latest/ray.log")) == (0o700, 0o755, 0o600)


@pytest.mark.usefixtures("usual_umask")
def test_a_run_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    with RunStore(tmp_path / "shared").lock():
        assert mode(tmp_path / "shared") == 0o755


def test_state_comes_back(store: RunStore) -> None:
    state = {"config": {"seed": 1}, "stages": {"corpus": "corpus-1"}}
    store.write_state(state)
    assert store.read_state() == state


def test_state_of_a_folder_without_run(folder: StoragePath) -> None:
    with pytest.raises(UserError, match="no run in"):
        RunStore(folder.uri).read_state()


@pytest.mark.parametrize("text", [*RUBBISH, '{"stages": []}', '{"stages": {"corpus": 7}}'])
def test_state_of_rubbish_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged; run pdray run again"):
        RunStore(tmp_path).read_state()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_state_that_is_no_file_is_named_and_never_waits(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "run.json")
    with pytest.raises(UserError, match=r"run\.json cannot be read .*not a file"):
        RunStore(tmp_path).read_state()


def test_another_users_run_is_said_to_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: StoragePath) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(StoragePath, "read_bytes", refuse)  # tests may run as root, whom no mode stops
    with pytest.raises(UserError, match=r"may not be read; its owner opens it to a group with: chmod -R g\+rX"):
        RunStore(tmp_path).read_state()


def test_fingerprint_depends_on_values_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


@pytest.mark.parametrize("name", ["..", "/etc", "corpus-1/x", "a\\u0000b", "\\ud800", ""])
def test_state_with_folders_elsewhere_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "run.json").write_text(f'{{"stages": {{"corpus": "{name}"}}}}')
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        RunStore(tmp_path).read_state()


@pytest.mark.parametrize("number", ["NaN", "1e999", "-1", str(10**400), "1e300"])
def test_figures_of_attempts_that_are_none_count_as_none(tmp_path: Path, number: str) -> None:
    store = RunStore(tmp_path)
    (tmp_path / "attempts.json").write_text(f'{{"attempts": {number}, "spent": {number}}}')
    assert read_spent(store.root) == 0
    (tmp_path / "attempts.json").write_text(f'{{"attempts": 3, "spent": {number}}}')
    assert store.begin(store.root) == 4
