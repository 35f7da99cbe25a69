"""A machine of its own for the faults: namespaces of network, mounts and processes, which need no root.

Nothing that happens inside reaches the machine around it: ports, mounts and a cut network are this suite's alone, and
when it ends, however it ends, the kernel ends every process that is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INSIDE = "PDRAY_CHAOS_INSIDE"
NAMESPACES = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
HEAD, NEAR, FAR = "10.9.0.1", "10.9.0.2", "10.9.0.3"
NOWHERE = "10.9.0.254"  # Ray finds its own address by a route to the outside, which there has to be
BRIDGE, PORT, REMOTE = "pdray0", "pdray1", "pdray2"
PR_SET_CHILD_SUBREAPER = 36


def enter(module: str, words: list[str]) -> None:
    """Start this program again inside namespaces, unless it is there already.

    Raises:
        SystemExit: this machine gives no namespaces.
    """
    if INSIDE in os.environ:
        return
    if subprocess.run(["unshare", *NAMESPACES, "true"], stderr=subprocess.DEVNULL).returncode:
        raise SystemExit("chaos: this machine allows no user namespaces (unshare --user), which cut networks need")
    command = ["unshare", *NAMESPACES, sys.executable, "-m", module, *words]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})  # noqa: S606 - this very program again


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends, so that none is lost from sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True)
class Host:
    """A host of the suite's network.

    Attributes:
        address: its IPv4 address.
        interface: that has it.
        prefix: of a command that is to run there.
    """

    address: str
    interface: str
    prefix: tuple[str, ...] = ()


@contextlib.contextmanager
def three_hosts() -> Iterator[tuple[Host, Host, Host]]:
    """Two addresses in this network namespace, one in another, and a cable between the two; see :func:`cut`."""
    ip("link", "set", "lo", "up")
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{holder.pid}/ns/net") == ours:
            time.sleep(0.01)
        inside = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "add", PORT, "type", "veth", "peer", "name", REMOTE)
        ip("link", "set", REMOTE, "netns", str(holder.pid))
        ip("link", "set", PORT, "master", BRIDGE)
        for address in (HEAD, NEAR):
            ip("addr", "add", f"{address}/24", "dev", BRIDGE)
        ip("addr", "add", f"{FAR}/24", "dev", REMOTE, prefix=inside)
        for name in (BRIDGE, PORT):
            ip("link", "set", name, "up")
        for name in ("lo", REMOTE):
            ip("link", "set", name, "up", prefix=inside)
        for prefix in ((), inside):
            ip("route", "add", "default", "via", NOWHERE, prefix=prefix)
        yield Host(HEAD, BRIDGE), Host(NEAR, BRIDGE), Host(FAR, REMOTE, inside)
    finally:
        holder.kill()
        holder.wait()
        ip("link", "del", BRIDGE)


def cut() -> None:
    """Pull the cable: packets are lost without an answer, and both hosts keep their addresses."""
    ip("link", "set", PORT, "down")


def mend() -> None:
    """Plug it in again."""
    ip("link", "set", PORT, "up")


def ip(*words: str, prefix: tuple[str, ...] = ()) -> None:
    """The ``ip`` command."""
    subprocess.run([*prefix, "ip", *words], check=True)


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[None]:
    """A disk of so many MiB at a folder, of memory; what it held is gone afterwards."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
