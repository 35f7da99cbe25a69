"""Running a config on a Ray cluster through its jobs API, with Ray's token authentication."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from pdray.config import RunConfig, load_config
from pdray.console import Console
from pdray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserError
from pdray.filesystems import read_regular
from pdray.paths import holds_secret
from pdray.storage import StoragePath
from pdray.store import RunStore

CONNECT_SECONDS = 15.0
POLL_SECONDS = 0.5
TRIES = 5
RETRY_SECONDS = 1.0
MAX_WORDS = 300  # characters of a cluster's error; a traceback has its cause at the end
# What Ray's client raises for an answer that is no success, and for none; those of requests are OSErrors.
CLIENT_ERRORS = (RuntimeError, OSError)
# Ray's client prefers these to the address that it is given.
ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def submit(config_path: str, overrides: list[str], address: str, follow: bool) -> int:
    """Submit ``pdray run`` to a cluster.

    The config is validated here; it is written with absolute paths into the run folder, which every node mounts.
    The token goes into request headers only.

    Args:
        config_path: YAML file.
        overrides: ``key=value`` settings, as for ``pdray run --set``.
        address: jobs API of the head, for example ``http://127.0.0.1:8265``.
        follow: print the job's log and wait for its end.

    Returns:
        0 once submitted; with ``follow`` the exit code of the job, or 130 if the following was interrupted
        (the job goes on) or the job was stopped.

    Raises:
        UserError: the config is invalid, the address is none or holds more than one, there is no token or the cluster
            refuses it or the job, nothing answers there, or nothing answers there any more while the job is followed.
    """
    address = _plain_address(address)
    config = load_config(config_path, overrides)
    headers = _headers()
    _check_cluster(address, headers)
    submission_id = f"pdray-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
    resolved = _write_resolved(config, submission_id)
    client = _submit_job(address, headers, resolved, submission_id)
    console = Console()
    console.say(f"submitted {submission_id} to {address}")
    if not follow:
        console.say(_how_to(address, submission_id))
        return EXIT_OK
    return _follow(client, address, submission_id, console)


def _plain_address(address: str) -> str:
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


def _headers() -> dict[str, str]:
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


def _check_cluster(address: str, headers: dict[str, str]) -> None:
    import requests

    try:
        response = requests.get(f"{address}/api/version", headers=headers, timeout=CONNECT_SECONDS)
    except (requests.RequestException, ValueError) as error:  # a ValueError: of some addresses that are none
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


def _submit_job(address: str, headers: dict[str, str], resolved: StoragePath, submission_id: str) -> Any:
    entrypoint = f"python -m pdray run {shlex.quote(str(resolved))}"
    try:
        client = _client(address, headers)
        client.submit_job(entrypoint=entrypoint, submission_id=submission_id)
    except CLIENT_ERRORS as error:
        raise UserError(
            f"{address} does not take the job ({_in_one_line(error)}); mend that and submit again"
        ) from None
    return client


def _in_one_line(error: BaseException) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MAX_WORDS else f"…{words[-MAX_WORDS:]}"


def _client(address: str, headers: dict[str, str]) -> Any:
    from ray.job_submission import JobSubmissionClient

    with _without_environment(ADDRESS_VARIABLES):
        return JobSubmissionClient(address, headers=headers)


@contextlib.contextmanager
def _without_environment(names: tuple[str, ...]) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def _write_resolved(config: RunConfig, submission_id: str) -> StoragePath:
    # The job joins the cluster that it was submitted to, whatever cluster the file names.
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": None})})
    store = RunStore(config.run)
    store.make()
    path = store.root / "submitted" / f"{submission_id}.yaml"
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    try:
        path.write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot write to the run folder {config.run}: {error.strerror or error}; set run to another"
        ) from None
    return path


def _how_to(address: str, submission_id: str) -> str:
    return (
        f"follow it with: ray job logs --follow --address {address} {submission_id}\n"
        f"stop it with:   ray job stop --address {address} {submission_id}"
    )


def _follow(client: Any, address: str, submission_id: str, console: Console) -> int:
    try:
        asyncio.run(_print_log(client, submission_id, console))
        details = _await_end(client, address, submission_id)
    except KeyboardInterrupt:
        console.say(f"\nnot following any more; {submission_id} goes on\n{_how_to(address, submission_id)}")
        return EXIT_INTERRUPTED
    return _exit_code(details, console)


async def _print_log(client: Any, submission_id: str, console: Console) -> None:
    """Print the log as it grows; a lost connection is taken up again where it broke off."""
    import aiohttp

    printed = 0
    for attempt in range(TRIES):
        position = 0
        try:
            async for text in client.tail_job_logs(submission_id):
                position += len(text)
                if position > printed:
                    console.out.write(text[max(0, printed - position + len(text)) :])
                    console.out.flush()
                    printed = position
            return
        except (RuntimeError, aiohttp.ClientError):
            await asyncio.sleep(RETRY_SECONDS * 2**attempt)
    console.say(f"the log of {submission_id} cannot be read any more; waiting for the job to end")


def _await_end(client: Any, address: str, submission_id: str) -> Any:
    while not (details := _job_info(client, address, submission_id)).status.is_terminal():
        time.sleep(POLL_SECONDS)
    return details


def _job_info(client: Any, address: str, submission_id: str) -> Any:
    words = ""
    for attempt in range(TRIES):
        try:
            return client.get_job_info(submission_id)
        except CLIENT_ERRORS as error:
            words = _in_one_line(error)
            time.sleep(RETRY_SECONDS * 2**attempt)
    raise UserError(
        f"{address} does not say any more how {submission_id} is doing ({words}); the job goes on as long as its "
        "cluster lives",
        *_how_to(address, submission_id).splitlines(),
    )


def _exit_code(details: Any, console: Console) -> int:
    code: int | None = details.driver_exit_code
    if details.status == "SUCCEEDED":
        return EXIT_OK
    if details.status == "STOPPED":
        console.say(f"{details.submission_id} was stopped")
        return EXIT_INTERRUPTED
    if code is None or code == 0:
        console.say(f"{details.submission_id} failed: {details.message}")
        return EXIT_FAILED
    # A negative code is the signal that ended the job; shells report it as 128 + signal.
    return code if code > 0 else 128 - code
