"""Reaching the jobs API of a Ray cluster: its address, Ray's token authentication, errors in one line."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

from pdray.errors import UserError
from pdray.filesystems import read_regular
from pdray.paths import holds_secret

CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 60.0  # of silence, in every request after the first
WHOLE_SECONDS = 300.0  # of such a request as a whole; a log may be long
UPLOAD_SECONDS = 3600.0  # of one that sends a package
MAX_WORDS = 300  # characters of a cluster's error; a traceback has its cause at the end
# What Ray's client raises for an answer that is no success, and for none; those of requests are OSErrors.
CLIENT_ERRORS = (RuntimeError, OSError)
Answer = TypeVar("Answer")
# Ray's client prefers these to the address that it is given.
ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def connect(address: str) -> tuple[Any, str]:
    """A client of the jobs API, and its address. The token goes into request headers only.

    Args:
        address: of the head, for example ``http://127.0.0.1:8265``.

    Raises:
        UserError: it is none or holds a secret, there is no token or the cluster refuses it, or nothing answers there.
    """
    address = plain_address(address)
    found = headers()
    check_cluster(address, found)
    try:
        return client_of(address, found), address
    except CLIENT_ERRORS as error:
        raise UserError(f"{address} cannot be used ({in_one_line(error)})") from None


def plain_address(address: str) -> str:
    """The address without a slash at its end.

    Raises:
        UserError: it is none of the jobs API, or holds what may be a secret, which the message does not repeat.
    """
    plain = address
    while (decoded := unquote(plain)) != plain:
        plain = decoded
    if any(mark in plain for mark in "@?#") or holds_secret(plain):
        raise UserError(
            "--address holds a user, a password or a token, which would stand in messages and in the cluster's logs; "
            "name host and port alone, as in http://127.0.0.1:8265, and give the token by RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        )
    if not address.lower().startswith(("http://", "https://")):
        raise UserError(f"--address is {address!r} but must be the head's jobs API, for example http://127.0.0.1:8265")
    return address.rstrip("/")


def headers() -> dict[str, str]:
    """Of every request.

    Raises:
        UserError: there is no token.
    """
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    return {"Authorization": f"Bearer {_token()}"} if mode == "token" else {}


def _token() -> str:
    """The token where Ray itself looks for it, in the same order."""
    default = Path.home() / ".ray" / "auth_token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default)
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not token:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            token = read_regular(str(path)).decode("utf-8").strip()
    if not token or not token.isascii() or not token.isprintable():  # anything else is in no header
        raise UserError(
            f"no token in RAY_AUTH_TOKEN or in {path}; set RAY_AUTH_TOKEN_PATH to a file with the cluster's token "
            "(ray get-auth-token prints it on the head; cluster/local.sh up names its file)"
        )
    return token


def check_cluster(address: str, headers: dict[str, str]) -> None:
    """Whether a jobs API answers there and takes the token.

    Raises:
        UserError: it does not; the message says which.
    """
    import requests

    try:
        response = within(
            CONNECT_SECONDS,
            lambda: requests.get(f"{address}/api/version", headers=headers, timeout=CONNECT_SECONDS),
        )
    except (requests.RequestException, TimeoutError, ValueError) as error:  # a ValueError: of some that are none
        raise UserError(
            f"nothing answers at --address {address} ({type(error).__name__}); check host and port, or "
            "start a cluster with cluster/local.sh up"
        ) from None
    if response.status_code in (401, 403):
        raise UserError(
            f"{address} refuses the token ({response.status_code}); set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that "
            "cluster's token, and RAY_AUTH_MODE=token"
        )
    if response.status_code != 200:
        raise UserError(
            f"{address} answers {response.status_code} and is no Ray jobs API; name the dashboard's address, port 8265"
        )


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What a request brings, if it comes in time as a whole.

    The time limits of a socket begin anew with every byte, so that a server which drips has none. What is late goes on
    in a thread that the process does not wait for.

    Raises:
        TimeoutError: it does not; what the request itself raises comes as it is.
    """
    came: list[Callable[[], Answer]] = []

    def act() -> None:
        try:
            answer = ask()
        except BaseException as error:
            came.append(functools.partial(_again, error))
        else:
            came.append(lambda: answer)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not came:
        raise TimeoutError(f"no whole answer within {seconds:g} seconds")
    return came[0]()


def _again(error: BaseException) -> NoReturn:
    raise error


def in_one_line(error: BaseException) -> str:
    """The words of a cluster's error."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MAX_WORDS else f"…{words[-MAX_WORDS:]}"


def client_of(address: str, headers: dict[str, str]) -> Any:
    """Ray's client, for this very address."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own waits without end for a head that is gone."""

        def _do_request(self, method: str, endpoint: str, **words: Any) -> Any:
            ask = super()._do_request
            seconds = UPLOAD_SECONDS if words.get("data") else WHOLE_SECONDS
            return within(seconds, lambda: ask(method, endpoint, **({"timeout": ANSWER_SECONDS} | words)))

    with _without_environment(ADDRESS_VARIABLES):
        return Client(address, headers=headers)


@contextlib.contextmanager
def _without_environment(names: tuple[str, ...]) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
