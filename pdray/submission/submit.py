"""Running a config on a Ray cluster through its jobs API, with Ray's token authentication."""

from __future__ import annotations

import os
import shlex
import time
from typing import Any

import yaml

from pdray.config import RunConfig, load_config
from pdray.console import Console
from pdray.errors import EXIT_OK, UserError
from pdray.storage import StoragePath
from pdray.store import RunStore
from pdray.submission import jobs
from pdray.submission.api import CLIENT_ERRORS, connect, in_one_line, plain_address


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
    plain_address(address)  # what it holds is refused before anything else is said
    config = load_config(config_path, overrides)
    client, address = connect(address)
    submission_id = f"{jobs.PREFIX}{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
    resolved = _write_resolved(config, submission_id)
    _submit_job(client, address, resolved, submission_id)
    console = Console()
    console.say(f"submitted {submission_id} to {address}")
    if not follow:
        console.say(jobs.how_to(address, submission_id))
        return EXIT_OK
    return jobs.follow(client, address, submission_id, console)


def _submit_job(client: Any, address: str, resolved: StoragePath, submission_id: str) -> None:
    entrypoint = f"python -m pdray run {shlex.quote(str(resolved))}"
    try:
        client.submit_job(entrypoint=entrypoint, submission_id=submission_id)
    except CLIENT_ERRORS as error:
        raise UserError(f"{address} does not take the job ({in_one_line(error)}); mend that and submit again") from None


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
