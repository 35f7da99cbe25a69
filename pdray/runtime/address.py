"""Whether anything answers at the address of a cluster, before Ray asks there for many minutes without a word."""

from __future__ import annotations

import ipaddress
import re
import socket

from pdray.errors import UserError

SECONDS = 10.0
OUTSIDE = ("192.0.2.1", 9)  # nobody's; nothing is sent there


def check_answers(address: str) -> None:
    """Refuse a ``host:port`` where nothing listens; other addresses are for Ray to resolve.

    Raises:
        UserError: nothing does.
    """
    place = _place(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=SECONDS).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at cluster.address {address!r} ({error.strerror or error}); start one with "
            "cluster/local.sh up, correct the address, or set it to null for a local Ray"
        ) from None


def on_loopback_alone(address: str) -> bool:
    """Whether an address of this machine's loopback answers there and at no other address of the machine.

    So does ``cluster/local.sh``. Ray would go from 127.0.0.1 to the machine's own address.
    """
    place = _place(address)
    if place is None or not _is_loopback(place[0]):
        return False
    try:
        socket.create_connection((_own_address(), place[1]), timeout=SECONDS).close()
    except OSError:
        return True
    return False


def _place(address: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"\[?([^/\]]+?)\]?:(\d{1,5})", address)
    return (found[1], int(found[2])) if found else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_address() -> str:
    """As Ray finds it: that of the route to the outside; loopback where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(OUTSIDE)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
