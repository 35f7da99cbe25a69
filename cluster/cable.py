"""A cable between two network namespaces that delays and narrows what it carries; ``cluster/local.sh`` lays it.

    python cluster/cable.py NEAR FAR --latency-ms 20 --mbit 100

NEAR and FAR are names of two TAP devices that are made in the namespace of this process; whoever starts it moves FAR
into the other one. It runs until it is ended, and the devices end with it. A kernel needs neither netem nor veth for
it, only ``/dev/net/tun``. A device that is down loses what comes, as a cable that is cut does.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import struct
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 65_536
MOST_BYTES = 64 * 2**20  # on their way in one direction; more is lost, as in a switch


class Direction:
    """Frames that go from one device to the other.

    Args:
        source, target: file descriptors of the devices.
        latency: seconds.
        rate: bytes a second; 0 is without a limit.
    """

    def __init__(self, source: int, target: int, latency: float, rate: float) -> None:
        self.source, self.target, self._latency, self._rate = source, target, latency, rate
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes, self._free_at = 0, 0.0

    def take(self, now: float) -> None:
        """Read what the source has."""
        with contextlib.suppress(BlockingIOError):
            while frame := os.read(self.source, FRAME_BYTES):
                self.add(now, frame)

    def add(self, now: float, frame: bytes) -> None:
        """Put a frame on its way: after those before it, at the rate, then the latency."""
        if self._bytes + len(frame) > MOST_BYTES:
            return
        self._free_at = max(now, self._free_at) + (len(frame) / self._rate if self._rate else 0.0)
        self._frames.append((self._free_at + self._latency, frame))
        self._bytes += len(frame)

    def due(self, now: float) -> list[bytes]:
        """The frames that have arrived, in order."""
        found = []
        while self._frames and self._frames[0][0] <= now:
            found.append(self._frames.popleft()[1])
            self._bytes -= len(found[-1])
        return found

    def wait(self, now: float) -> float | None:
        """Seconds until the next frame arrives; None where none is on its way."""
        return max(0.0, self._frames[0][0] - now) if self._frames else None


def carry(directions: list[Direction]) -> None:
    """Until the process is ended."""
    poll = select.poll()
    by_source = {one.source: one for one in directions}
    for source in by_source:
        poll.register(source, select.POLLIN)
    while True:
        waits = [wait for one in directions if (wait := one.wait(time.monotonic())) is not None]
        for source, _ in poll.poll(1000 * min(waits) if waits else None):
            by_source[source].take(time.monotonic())
        for one in directions:
            for frame in one.due(time.monotonic()):
                with contextlib.suppress(OSError):  # the other end is down, or full
                    os.write(one.target, frame)


def tap(name: str) -> int:
    """A TAP device; it is there as long as the file descriptor is open."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def main() -> None:
    """Make the devices and carry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each direction")
    parser.add_argument("--mbit", type=float, default=0.0, help="a second, of each direction; 0: no limit")
    args = parser.parse_args()
    near, far = tap(args.near), tap(args.far)
    latency, rate = args.latency_ms / 1000, args.mbit * 1e6 / 8
    carry([Direction(near, far, latency, rate), Direction(far, near, latency, rate)])


if __name__ == "__main__":
    main()
