"""Who holds a run folder: a lease with an owner, an epoch and a heartbeat, on local and on object storage.

A heartbeat is a number that grows, and a lease is dead when its number stood still for :data:`TTL_SECONDS` of the
watcher's own clock, so clocks that differ or jump do no harm. A holder that died on this machine is recognised at
once. The lease keeps two drivers from doing the same work twice; that nothing is damaged when they do rests on shards,
whose files are the same whoever writes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import pyarrow.fs as pafs

from pdray.errors import RunFolderBusyError, UserError
from pdray.storage import StoragePath

LEASE = "lease.json"
LOST = signal.SIGUSR1  # sent to the driver itself: unlike SIGINT no shell has it ignored
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


class _Lost(BaseException):
    """Stops the driver wherever it is; no handler of ordinary errors on the way takes it for one."""


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
        self._lost_to: Holder | None = None

    def holder(self) -> Holder | None:
        """Who holds it by what the file says, None where nobody does.

        Raises:
            UserError: something that is no file stands in its place.
            OSError: the storage does not answer.
        """
        kind = self._path.info().type
        if kind == pafs.FileType.NotFound:
            return None
        if kind != pafs.FileType.File:
            raise UserError(f"{self._path} is no file; remove it and run again")
        try:
            return _parse(self._path.read_json())
        except (FileNotFoundError, ValueError):
            return None  # half a lease of a disk that was full holds nothing

    def is_held(self) -> bool:
        """Whether a holder seems to live; a holder on another machine is believed for as long as its last beat says."""
        holder = self.holder()
        if holder is None or holder.is_dead:
            return False
        return holder.machine == _machine() or time.time() - holder.seen < self._ttl

    @contextlib.contextmanager
    def hold(self, wait: float = 0.0, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Hold the run folder while the block runs.

        In the main thread a lease that is lost stops the block where it is; in another thread it is found out at its
        end.

        Args:
            wait: seconds in which another driver may let go of it, or die.
            say: tells whom it waits for.

        Raises:
            RunFolderBusyError: another driver holds it, or took it while this one could not reach the storage.
            UserError: it cannot be written.
        """
        try:
            self._acquire_within(wait, say)
        except UserError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write to the run folder {self._folder}: {reason}; set run to another") from None
        stop = threading.Event()
        try:
            with _stopped_when_lost() as stop_driver:
                beating = threading.Thread(target=self._beat, args=(stop, stop_driver), daemon=True)
                beating.start()
                try:
                    yield
                finally:
                    stop.set()
                    beating.join(BEAT_SECONDS)
                    with contextlib.suppress(OSError, UserError):
                        self._release()
        except _Lost:
            raise self._busy(self._lost_to) from None
        if self._lost_to is not None:
            raise self._busy(self._lost_to)

    def _acquire_within(self, wait: float, say: Callable[[str], None]) -> None:
        """As :meth:`_acquire`, again and again for so many seconds; a lost race counts as any other holder."""
        end, told = time.monotonic() + wait, ""
        while True:
            try:
                return self._acquire()
            except RunFolderBusyError as error:
                left, busy = end - time.monotonic(), str(error).partition(";")[0]
                if left <= 0:
                    raise
                if busy != told:
                    say(f"{busy}; waiting up to {left:.0f} s for it to end")
                told = busy
                time.sleep(min(left, BEAT_SECONDS))

    def _acquire(self) -> None:
        found = self.holder()
        if found is not None and not found.is_dead:
            found = self._watch(found)
        with _one_at_a_time(self._folder):
            now = self.holder()
            if now is not None and not now.is_dead and now != found:
                raise self._busy(now)
            if now is None and not self._path.exists():
                if not self._path.put_if_absent(self._content()):
                    raise self._busy(self.holder())
            else:
                self._mine = replace(self._mine, epoch=now.epoch + 1 if now else 1)
                self._path.write_bytes(self._content())
        # Where nothing keeps two drivers apart (object storage, some mounts), the last one to write has it.
        time.sleep(SETTLE_SECONDS[self._path.is_local])
        now = self.holder()
        if now is None or now.owner != self._mine.owner:
            raise self._busy(now)

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

    def _beat(self, stop: threading.Event, stop_driver: Callable[[], None]) -> None:
        while not stop.wait(min(BEAT_SECONDS, self._ttl / 6)):
            try:
                now = self.holder()
                if now is not None and now.owner != self._mine.owner:
                    self._lost_to = now
                    stop_driver()
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


@contextlib.contextmanager
def _stopped_when_lost() -> Iterator[Callable[[], None]]:
    """Yields what stops the block from another thread; nothing can stop one that is not in the main thread."""
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield lambda: None
        return

    def stop(number: int, frame: Any) -> NoReturn:
        raise _Lost

    before = signal.signal(LOST, stop)
    try:
        # A signal that is really sent also ends a sleep or a wait for a socket.
        yield lambda: signal.pthread_kill(main.ident or 0, LOST)
    finally:
        signal.signal(LOST, before)


@contextlib.contextmanager
def _one_at_a_time(folder: StoragePath) -> Iterator[None]:
    """One process at a time on a disk of this machine; object storage and some mounts know no such lock."""
    if not folder.is_local:
        yield
        return
    handle = os.open(folder.uri, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _parse(value: Any) -> Holder:
    """A holder from JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        holder = Holder(**value)
        seen = float(holder.seen)
    except (TypeError, OverflowError):
        raise ValueError("no lease") from None
    texts, numbers = (holder.owner, holder.machine), (holder.pid, holder.started, holder.epoch, holder.beat)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        raise ValueError("no lease")
    return replace(holder, seen=seen)


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
