"""Who holds a run folder: a lease with an owner, an epoch and a heartbeat, on local and on object storage.

A heartbeat is a number that grows, and a lease is dead when its number stood still for :data:`TTL_SECONDS` of the
watcher's own clock, so clocks that differ or jump do no harm. A holder that died on this machine is recognised at
once. The lease keeps two drivers from doing the same work twice; that nothing is damaged when they do rests on shards,
whose files are the same whoever writes them.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.fs as pafs

from pdray.errors import RunFolderBusyError, UserError
from pdray.storage import StoragePath

LEASE = "lease.json"
TTL_SECONDS = 30.0
BEAT_SECONDS = 5.0
SETTLE_SECONDS = {True: 0.1, False: 2.0}  # by whether the storage is local: longer than a write takes to be seen


@dataclass(frozen=True)
class Holder:
    """What stands in a lease.

    Attributes:
        owner: random, one per process that ever asked.
        machine: host name, boot and process namespace; a process id means nothing outside of it.
        pid: of the driver.
        started: when that process started, in the kernel's ticks, which tells it from a later one of the same id.
        epoch: grows whenever the lease changes hands.
        beat: grows while the holder lives.
        seen: seconds since 1970 of the last beat, for people.
    """

    owner: str
    machine: str
    pid: int
    started: int
    epoch: int = 1
    beat: int = 0
    seen: float = 0.0

    @property
    def label(self) -> str:
        """For a message."""
        return f"process {self.pid} on {self.machine.partition(' ')[0]}"

    @property
    def is_dead(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        return self.machine == _machine() and _started(self.pid) != self.started


class Lease:
    """The lease of one run folder.

    Args:
        folder: the run folder.
        ttl: seconds without a heartbeat after which it is free.
    """

    def __init__(self, folder: StoragePath, ttl: float = TTL_SECONDS) -> None:
        self._path = folder / LEASE
        self._folder = folder
        self._ttl = ttl
        pid = os.getpid()
        self._mine = Holder(uuid.uuid4().hex, _machine(), pid, _started(pid) or 0)
        self._lost: Holder | None = None

    def holder(self) -> Holder | None:
        """Who holds it by what the file says, None where nobody does.

        Raises:
            UserError: something that is no file stands in its place.
        """
        kind = self._path.info().type
        if kind == pafs.FileType.NotFound:
            return None
        if kind != pafs.FileType.File:
            raise UserError(f"{self._path} is no file; remove it and run again")
        try:
            return Holder(**self._path.read_json())
        except (OSError, ValueError, TypeError):
            return None  # half a lease of a disk that was full holds nothing

    def is_held(self) -> bool:
        """Whether a holder seems to live; a holder on another machine is believed for as long as its last beat says."""
        holder = self.holder()
        if holder is None or holder.is_dead:
            return False
        return holder.machine == _machine() or time.time() - holder.seen < self._ttl

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the run folder while the block runs.

        Raises:
            RunFolderBusyError: another driver holds it, or took it while this one could not reach the storage.
        """
        self._acquire()
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        beating.start()
        try:
            yield
        except KeyboardInterrupt:
            if self._lost is not None:
                raise self._busy(self._lost) from None
            raise
        finally:
            stop.set()
            beating.join(BEAT_SECONDS)
            with contextlib.suppress(OSError, UserError):
                self._release()

    def _acquire(self) -> None:
        holder = self.holder()
        if holder is not None and not holder.is_dead:
            holder = self._watch(holder)
        if holder is None and not self._path.exists():
            if not self._path.put_if_absent(self._content()):
                return self._acquire()
        else:
            self._mine = replace(self._mine, epoch=holder.epoch + 1 if holder else 1)
            self._path.write_bytes(self._content())
        time.sleep(SETTLE_SECONDS[self._path.is_local])
        now = self.holder()
        if now is None or now.owner != self._mine.owner:
            raise self._busy(now)
        return None

    def _watch(self, holder: Holder) -> Holder | None:
        """Wait until a holder's silence has lasted; what is left of it, None if it has let go.

        Raises:
            RunFolderBusyError: it lives.
        """
        if holder.machine == _machine():
            raise self._busy(holder)
        end = time.monotonic() + self._ttl
        while time.monotonic() < end:
            time.sleep(min(1.0, self._ttl / 10))
            now = self.holder()
            if now is None:
                return None
            if (now.owner, now.beat) != (holder.owner, holder.beat):
                raise self._busy(now)
        return holder

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(min(BEAT_SECONDS, self._ttl / 6)):
            try:
                now = self.holder()
                if now is not None and now.owner != self._mine.owner:
                    self._lost = now
                    _thread.interrupt_main()
                    return
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                self._path.write_bytes(self._content())
            except (OSError, UserError):
                continue  # storage that does not answer is asked again; who took over meanwhile is seen then

    def _release(self) -> None:
        now = self.holder()
        if now is not None and now.owner == self._mine.owner:
            self._path.delete()

    def _content(self) -> bytes:
        return json.dumps(asdict(replace(self._mine, seen=time.time()))).encode()

    def _busy(self, holder: Holder | None) -> RunFolderBusyError:
        who = holder.label if holder else "another process"
        return RunFolderBusyError(f"{self._folder} is in use by {who}; wait for it to end or set run to another folder")


def _machine() -> str:
    parts: list[Any] = [os.uname().nodename]
    for read in (
        lambda: open("/proc/sys/kernel/random/boot_id", encoding="ascii").read().strip(),  # noqa: SIM115
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with contextlib.suppress(OSError):
            parts.append(read())
    return " ".join(parts)


def _started(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None if there is none, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
