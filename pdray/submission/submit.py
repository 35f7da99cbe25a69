"""Running a config on a Ray cluster through its jobs API, with Ray's token authentication."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pdray.config import RunConfig, build_config, load_config
from pdray.console import Console
from pdray.errors import EXIT_OK, UserError
from pdray.storage import StoragePath
from pdray.store import RunStore
from pdray.submission import jobs
from pdray.submission.api import CLIENT_ERRORS, connect, in_one_line, plain_address
from pdray.submission.shipment import Shipment

# A driver that reserves nothing is started on the head.
RESERVES = {"entrypoint_num_cpus", "entrypoint_memory"}


@dataclass(frozen=True)
class Job:
    """A run on a cluster.

    Attributes:
        name: as ``pdray status`` lists it.
        address: jobs API of the cluster.
    """

    name: str
    address: str

    def status(self) -> str:
        """What ``pdray status`` says of it: its name, when it began, how it is doing.

        Raises:
            UserError: the cluster does not answer, or does not know the job.
        """
        return jobs.status(self.address, self.name)

    def wait(self) -> int:
        """Print what it prints until it ends.

        Returns:
            its exit code; 130 where it was stopped.

        Raises:
            UserError: the cluster does not answer any more; the job goes on.
        """
        return jobs.logs(self.address, self.name, follow_it=True)

    def stop(self) -> str:
        """End it; submitting its config again goes on where it stopped.

        Raises:
            UserError: the cluster does not answer, or the job does not end.
        """
        return jobs.stop(self.address, self.name)


def submit(
    config: RunConfig | Mapping[str, Any] | str | Path,
    address: str,
    overrides: Sequence[str] = (),
    shipment: Shipment | None = None,
    until: str | None = None,
    wait: float = 0.0,
) -> Job:
    """Submit ``pdray run`` to a cluster, without waiting for it.

    The config is validated here; it is written with absolute paths into the run folder, which every node mounts.
    The token goes into request headers only. A config that was submitted before goes on in the same run folder.

    Args:
        config: YAML file, mapping as in such a file, or a validated config.
        address: jobs API of the head, for example ``http://127.0.0.1:8265``.
        overrides: ``key=value`` settings, as for ``pdray run --set``.
        shipment: what goes with it.
        until: name of the last stage; None runs all.
        wait: seconds in which another driver may let go of the run folder.

    Raises:
        UserError: the config or the shipment is wrong, the address is none or holds a secret, there is no token or the
            cluster refuses it or the job, or nothing answers there.
    """
    plain_address(address)  # what it holds is refused before anything else is said
    if isinstance(config, RunConfig):
        config = config.model_dump(mode="json")
    run = (
        build_config(dict(config), list(overrides))
        if isinstance(config, Mapping)
        else load_config(config, list(overrides))
    )
    submission_id = f"{jobs.PREFIX}{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
    with tempfile.TemporaryDirectory(prefix="pdray-") as scratch:
        words = (shipment or Shipment()).words(Path(scratch))
        if run.cluster.labels and RESERVES & words.keys():
            words["entrypoint_label_selector"] = run.cluster.labels
        client, address = connect(address)
        command = ["python", "-m", "pdray", "run", str(_write_resolved(run, submission_id))]
        command += ["--until", until] if until else []
        command += ["--wait", f"{wait:g}"] if wait else []
        _submit_job(client, address, shlex.join(command), submission_id, words)
    return Job(submission_id, address)


def submit_and_tell(
    config_path: str,
    overrides: list[str],
    address: str,
    follow: bool,
    shipment: Shipment | None = None,
    until: str | None = None,
    wait: float = 0.0,
) -> int:
    """What ``pdray submit`` does.

    Args:
        config_path, overrides, address, shipment, until, wait: see :func:`submit`.
        follow: print the job's log and wait for its end.

    Returns:
        0 once submitted; with ``follow`` the exit code of the job, or 130 if the following was interrupted
        (the job goes on) or the job was stopped.

    Raises:
        UserError: as :func:`submit`; nothing answers there any more while the job is followed.
    """
    job = submit(config_path, address, overrides, shipment, until, wait)
    console = Console()
    console.say(f"submitted {job.name} to {job.address}")
    if follow:
        return job.wait()
    console.say(jobs.how_to(job.address, job.name))
    return EXIT_OK


def _submit_job(client: Any, address: str, entrypoint: str, submission_id: str, words: dict[str, Any]) -> None:
    try:
        client.submit_job(entrypoint=entrypoint, submission_id=submission_id, **words)
    except (*CLIENT_ERRORS, ValueError, TypeError) as error:  # the last two: of a runtime environment
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
