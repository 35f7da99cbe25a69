"""Servers that answer a byte at a time, so that no socket is ever silent for long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from pdray.cli import main
from pdray.errors import UserError
from pdray.plan import cluster
from pdray.submission import api

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.fixture(params=[HEAD, b""], ids=["body", "headers"])
def dripping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one that drips for 40 seconds, its body or its headers already."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setattr(api, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(cluster, "WHOLE_SECONDS", 2.0)
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(request.param or b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(80):
                if ended.wait(0.5):
                    return
                connection.sendall(b" ")

    def serve() -> None:
        while not ended.is_set():
            try:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


def test_status_has_an_end(dripping: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert main(["status", "--address", dripping]) == 2
    assert f"nothing answers at --address {dripping} (TimeoutError); check host and port" in capsys.readouterr().err
    assert time.monotonic() - start < 20


def test_the_list_of_nodes_has_an_end(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "check_cluster", lambda address, headers: None)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"does not list its nodes \(TimeoutError\); say what it has with --on"):
        cluster.cluster_hardware(dripping, {})
    assert time.monotonic() - start < 20


def test_rays_client_has_an_end(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.job_submission  # noqa: F401 - it takes a while

    monkeypatch.setattr(api, "WHOLE_SECONDS", 2.0)
    start = time.monotonic()
    with pytest.raises(api.CLIENT_ERRORS, match="no whole answer within 2 seconds"):
        api.client_of(dripping, {}).list_jobs()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("error", [requests.ConnectionError("gone"), KeyError("x")])
def test_what_goes_wrong_in_time_comes_as_it_is(error: Exception) -> None:
    def fail() -> None:
        raise error

    ask: Callable[[], None] = fail
    with pytest.raises(type(error)) as caught:
        api.within(5, ask)
    assert caught.value is error
    assert api.within(5, lambda: 7) == 7
