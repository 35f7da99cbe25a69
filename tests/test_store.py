"""A folder that looks complete is; two runs never share one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pdray.errors import RunFolderBusyError, UserError
from pdray.store import RunStore, fingerprint, read_manifest, write_json

HOLD = """
import sys, time
from pdray.store import RunStore
with RunStore(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_without_manifest_is_not_complete(tmp_path):
    store = RunStore(tmp_path)
    folder = store.stage_folder("scores", "abcdef0123456789")
    assert folder.name == "scores-abcdef01"
    store.prepare(folder, keep=False)
    assert store.complete(folder, "abcdef0123456789") is None
    store.finish(folder, {"fingerprint": "abcdef0123456789"})
    assert store.complete(folder, "abcdef0123456789") == {"fingerprint": "abcdef0123456789"}


def test_a_folder_of_another_fingerprint_is_refused(tmp_path):
    store = RunStore(tmp_path)
    folder = store.stage_folder("scores", "abcdef01" + "0" * 8)
    store.prepare(folder, keep=False)
    store.finish(folder, {"fingerprint": "abcdef01" + "f" * 8})
    with pytest.raises(UserError, match="another configuration"):
        store.complete(folder, "abcdef01" + "0" * 8)


@pytest.mark.parametrize("keep", [True, False])
def test_what_an_interrupted_attempt_left_stays_only_where_it_is_wanted(tmp_path, keep):
    store = RunStore(tmp_path)
    folder = store.stage_folder("alignment", "0" * 16)
    store.prepare(folder, keep=False)
    (folder / "half").write_text("")
    store.prepare(folder, keep=keep)
    assert (folder / "half").exists() is keep


def test_the_second_run_is_refused_and_a_killed_one_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
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
        holder.wait()
        holder.stdout.close()


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder"), RunStore(tmp_path / "file").lock():
        pass


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "manifest.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert read_manifest(tmp_path) == {"a": 1}


def test_state_of_a_folder_without_run(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        RunStore(tmp_path / "none").read_state()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        RunStore(tmp_path).read_state()


def test_fingerprint_depends_on_values_not_on_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
