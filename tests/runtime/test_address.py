"""A cluster that is not there is said at once, and one that listens on loopback alone is reached."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pdray.config import ClusterConfig
from pdray.errors import UserError
from pdray.runtime import address
from pdray.runtime.address import check_answers, on_loopback_alone
from pdray.runtime.session import ray_session


@contextmanager
def listener(host: str) -> Iterator[int]:
    """The port of somebody who listens."""
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def nobody() -> int:
    """A port where nobody listens."""
    with listener("127.0.0.1") as port:
        return port


def test_nobody_there_is_refused_at_once(nobody: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"cluster.address '127.0.0.1:{nobody}' \(Connection refused\); start one"):
        ray_session(ClusterConfig(address=f"127.0.0.1:{nobody}")).__enter__()
    assert time.monotonic() - began < 5


def test_somebody_there_is_enough() -> None:
    with listener("127.0.0.1") as port:
        check_answers(f"127.0.0.1:{port}")


@pytest.mark.parametrize("given", ["auto", "local", "ray://127.0.0.1:9"])
def test_what_ray_resolves_itself_is_left_to_it(given: str) -> None:
    check_answers(given)
    assert not on_loopback_alone(given)


def test_loopback_alone(monkeypatch: pytest.MonkeyPatch, nobody: int) -> None:
    monkeypatch.setattr(address, "_own_address", lambda: "127.0.0.2")
    with listener("127.0.0.1") as port:
        assert on_loopback_alone(f"127.0.0.1:{port}") and on_loopback_alone(f"localhost:{port}")
        assert not on_loopback_alone(f"192.0.2.1:{port}")
    with listener("127.0.0.2") as port:
        assert not on_loopback_alone(f"127.0.0.1:{port}")


def test_the_command_ends_with_a_sentence(small_run_config: Path, nobody: int) -> None:
    command = [
        sys.executable,
        "-m",
        "pdray",
        "run",
        str(small_run_config),
        "--set",
        f"cluster.address=127.0.0.1:{nobody}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "no Ray cluster answers at cluster.address" in done.stderr and "Traceback" not in done.stderr
