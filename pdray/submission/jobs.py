"""Jobs that were submitted: how they are doing, what they print, and their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from pdray.console import Console
from pdray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserError
from pdray.submission.api import CLIENT_ERRORS, connect, in_one_line

PREFIX = "pdray-"
POLL_SECONDS = 0.5
TRIES = 5
RETRY_SECONDS = 1.0
STOP_SECONDS = 60.0
SILENT_SECONDS = 300.0  # of a log, after which it is asked whether the connection still lives


def status(address: str, job: str | None = None) -> str:
    """A line for each job that pdray has submitted there, the newest first; or for one job.

    Raises:
        UserError: as :func:`~pdray.submission.api.connect`; there is no such job.
    """
    client, address = connect(address)
    if job is not None:
        return _line(_known(client, address, job))
    try:
        found = [one for one in client.list_jobs() if (one.submission_id or "").startswith(PREFIX)]
    except CLIENT_ERRORS as error:
        raise UserError(f"{address} does not list its jobs ({in_one_line(error)})") from None
    found.sort(key=lambda one: one.start_time or 0, reverse=True)
    return "\n".join(map(_line, found)) or f"no job of pdray on {address}"


def logs(address: str, job: str, follow_it: bool) -> int:
    """Print what a job has printed; with ``follow_it`` until it ends.

    Returns:
        0; with ``follow_it`` as :func:`follow`.

    Raises:
        UserError: as :func:`status`.
    """
    client, address = connect(address)
    _known(client, address, job)
    console = Console()
    if follow_it:
        return follow(client, address, job, console)
    try:
        console.out.write(client.get_job_logs(job))
    except CLIENT_ERRORS as error:
        raise UserError(f"{address} does not give the log of {job} ({in_one_line(error)})") from None
    return EXIT_OK


def stop(address: str, job: str) -> str:
    """End a job, as Ctrl-C would; submitting its config again goes on where it stopped.

    Returns:
        what came of it.

    Raises:
        UserError: as :func:`status`; it does not end.
    """
    client, address = connect(address)
    before = _known(client, address, job)
    if before.status.is_terminal():
        return f"{job} had ended before: {_told(before)}"
    try:
        client.stop_job(job)
    except CLIENT_ERRORS as error:
        raise UserError(f"{address} does not stop {job} ({in_one_line(error)})") from None
    end = time.monotonic() + STOP_SECONDS
    while not (details := _job_info(client, address, job)).status.is_terminal():
        if time.monotonic() > end:
            raise UserError(
                f"{job} was told to stop but goes on after {STOP_SECONDS:.0f} s; ask again, or look at its log"
            )
        time.sleep(POLL_SECONDS)
    return f"{job}: {_told(details)}"


def _known(client: Any, address: str, job: str) -> Any:
    try:
        return client.get_job_info(job)
    except CLIENT_ERRORS as error:
        words = in_one_line(error)
        lost = "404" in words or "does not exist" in words
        cure = f"pdray status --address {address} lists them"
        raise UserError(
            f"{address} knows no job {job!r}; {cure}" if lost else f"{address} does not answer ({words})"
        ) from None


def _line(details: Any) -> str:
    began = details.start_time
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began / 1000)) if began else "not begun"
    return f"{details.submission_id}  {when}  {_told(details)}  {details.entrypoint}"


def _told(details: Any) -> str:
    """``running``, ``succeeded``, ``failed with exit code 2``."""
    word = str(getattr(details.status, "value", details.status)).lower()
    code = details.driver_exit_code
    return f"{word} with exit code {code}" if word == "failed" and code else word


def follow(client: Any, address: str, submission_id: str, console: Console) -> int:
    """Print a job's log until it ends.

    Returns:
        its exit code, or 130 where it was stopped or the following was interrupted; the job goes on then.

    Raises:
        UserError: the cluster does not answer any more.
    """
    try:
        asyncio.run(_print_log(client, address, submission_id, console))
        details = _await_end(client, address, submission_id)
    except KeyboardInterrupt:
        console.say(f"\nnot following any more; {submission_id} goes on\n{how_to(address, submission_id)}")
        return EXIT_INTERRUPTED
    return _exit_code(details, console)


async def _print_log(client: Any, address: str, submission_id: str, console: Console) -> None:
    """Print the log until the job ends; a lost connection is taken up again where it broke off."""
    import aiohttp

    printed = lost = 0
    told = -1
    while lost < TRIES:
        position = 0
        try:
            async for text in _within(client.tail_job_logs(submission_id), SILENT_SECONDS):
                position += len(text)
                if position > printed:
                    console.out.write(text[max(0, printed - position + len(text)) :])
                    console.out.flush()
                    printed, lost = position, 0
            if _job_info(client, address, submission_id).status.is_terminal():
                return
            if told < printed:  # once for each silence: something between here and the head may cut every link
                console.say(f"the log of {submission_id} ended and the job goes on; asking for more of it")
                told = printed
            await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:  # the job is quiet, or the connection is dead and does not say so
            if _job_info(client, address, submission_id).status.is_terminal():
                return
            await asyncio.sleep(RETRY_SECONDS)
        except (RuntimeError, OSError, aiohttp.ClientError):
            await asyncio.sleep(RETRY_SECONDS * 2**lost)
            lost += 1
    console.say(f"the log of {submission_id} cannot be read any more; waiting for the job to end")


async def _within(stream: AsyncIterator[str], seconds: float) -> AsyncIterator[str]:
    """What a stream yields.

    Raises:
        TimeoutError: it yields nothing for so long.
    """
    while True:
        try:
            async with asyncio.timeout(seconds):
                text = await anext(stream)
        except StopAsyncIteration:
            return
        yield text


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
            words = in_one_line(error)
            time.sleep(RETRY_SECONDS * 2**attempt)
    raise UserError(
        f"{address} does not say any more how {submission_id} is doing ({words}); the job goes on as long as its "
        "cluster lives",
        *how_to(address, submission_id).splitlines(),
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


def how_to(address: str, submission_id: str) -> str:
    """The commands for a job."""
    return (
        f"follow it with: pdray logs {submission_id} --address {address} --follow\n"
        f"stop it with:   pdray stop {submission_id} --address {address}"
    )
