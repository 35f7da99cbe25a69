"""A local Ray is out of reach of other machines and of other users of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pdray.runtime.session import LONGEST_TMPDIR, private_folder
from tests.listeners import beyond_loopback, listening, watch

SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

SESSION = """
import gc
import sys
import pdray.scoring.stage
from pdray.config import ClusterConfig
from pdray.garbage import YOUNG
from pdray.runtime import ray_session

with ray_session(ClusterConfig(num_cpus=2)):
    import ray

    class Echo:
        def say(self, word):
            return word

    actor = ray.remote(num_cpus=1)(Echo).remote()
    assert ray.get(actor.say.remote("word")) == "word"
    assert ray.get(ray.remote(lambda word: word).remote("word")) == "word"
    assert ray.get(ray.remote(lambda: gc.get_threshold()).remote())[0] == YOUNG
    print("ready", flush=True)
    if sys.stdin.readline() == "fail\\n":
        raise RuntimeError("as told")
"""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """As a user has it: without the variable that the tests set, and with a TMPDIR short enough for Ray."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield {name: value for name, value in os.environ.items() if name != SWITCH} | {"TMPDIR": folder}


def python(code: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("word", ["end", "fail"])
def test_a_session_is_private_and_leaves_nothing_behind(environment: dict[str, str], word: str) -> None:
    temporary = Path(environment["TMPDIR"])
    with python(SESSION, environment) as session:
        assert session.stdout is not None
        try:
            assert session.stdout.readline() == "ready\n"
            me = psutil.Process(session.pid)
            found = listening([me, *me.children(recursive=True)])
            assert len(found) > 5  # GCS, raylet, agents, actor, driver
            assert beyond_loopback(found) == []
            (folder,) = temporary.glob("pdray-*")
            assert folder.stat().st_mode & 0o777 == 0o700
            assert list(folder.glob("ray/session_*/sockets/raylet*"))
            _, errors = session.communicate(f"{word}\n", timeout=60)
        finally:
            session.kill()
    assert ("RuntimeError: as told" in errors) is (word == "fail"), errors
    assert list(temporary.glob("pdray-*")) == []


def test_a_run_listens_on_loopback_only(environment: dict[str, str], small_run_config: Path) -> None:
    command = [sys.executable, "-m", "pdray", "run", str(small_run_config), "--until", "corpus"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, text=True) as run:
        found = watch(run)
    assert run.returncode == 0
    assert len(found) > 5
    assert beyond_loopback(found) == []


@pytest.mark.parametrize(("value", "refused"), [(None, True), ("1", True), ("0", False)])
def test_ray_imported_before_must_have_been_told(environment: dict[str, str], value: str | None, refused: bool) -> None:
    code = "import ray\nfrom pdray.runtime import keep_on_loopback\nkeep_on_loopback()"
    with python(code, environment | ({SWITCH: value} if value else {})) as session:
        _, errors = session.communicate(timeout=60)
    assert (session.returncode != 0) is refused
    assert (f"set {SWITCH}=0 before the first import of ray" in errors) is refused


def test_a_tmpdir_too_long_for_sockets_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * LONGEST_TMPDIR)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with private_folder() as folder:
        assert folder.startswith("/tmp/pdray-")
        socket = f"{folder}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
        assert len(socket) - len("/tmp") + LONGEST_TMPDIR == 107
