"""Which network addresses some processes listen on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from typing import Any

import psutil

# Reading the sockets of a hundred processes takes as much of a core as it is given.
LEISURE = 9


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, str]]:
    """Address and process name of every listening TCP socket, IPv4 addresses as such."""
    found = set()
    for process in processes:
        try:
            name = " ".join(process.cmdline())[:120]
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((connection.laddr.ip.removeprefix("::ffff:"), name))
        except psutil.Error:  # it has just ended
            continue
    return found


def beyond_loopback(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that another machine could reach."""
    return sorted((ip, name) for ip, name in found if not ip.startswith("127.") and ip != "::1")


def watch(run: subprocess.Popen[Any]) -> set[tuple[str, str]]:
    """Everything that a process and its descendants listen on until it ends."""
    found: set[tuple[str, str]] = set()
    me = psutil.Process(run.pid)
    while run.poll() is None:
        began = time.monotonic()
        try:
            found |= listening([me, *me.children(recursive=True)])
        except psutil.NoSuchProcess:
            break
        time.sleep(max(0.5, LEISURE * (time.monotonic() - began)))
    return found
