"""Experiment trackers: which ones are there, and what keeps their files in the run folder.

The trainers of Transformers write to them; a tracker's own variables, where the user has set them, win.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from pdray.errors import UserError
from pdray.storage import StoragePath, copy_folder

FOLDER = "trackers"
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
ONE_EACH = ("tensorboard", "mlflow")  # trainings side by side must not share an event file, or a database


def check_trackers(setting: str, names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed.

    Args:
        setting: full name of the setting, for the message.
        names: keys of :data:`PACKAGES`.

    Raises:
        UserError: with the cure.
    """
    for name in names:
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise UserError(f"{setting} names {name}, which is not installed; pip install {name}, or take it out")


def prepare_trackers(names: Sequence[str], folder: Path, project: str, run: str = "") -> list[str]:
    """Set this process's variables so that trackers write below a folder and call nobody.

    Call it in the process that logs, before TRL is imported: Trackio, which TRL imports, looks once. W&B stays
    offline unless WANDB_API_KEY or WANDB_MODE says otherwise; usage statistics and error reports are off as well.
    Trackio reads its project from the trainer's arguments.

    Args:
        names: of the trackers.
        folder: of a stage; the files go to ``trackers/<name>`` in it.
        project: the name under which the runs of trackers stand.
        run: a folder below, for the trackers that keep one training in a folder; "" where a stage has only one.

    Returns:
        the variables that were not set before.
    """
    added = []
    for name in names:
        own = folder / FOLDER / name / (run if name in ONE_EACH else "")
        own.mkdir(parents=True, exist_ok=True)
        for variable, value in _variables(name, own, project).items():
            if variable not in os.environ:
                os.environ[variable] = value
                added.append(variable)
    return added


@contextlib.contextmanager
def tracked(names: Sequence[str], stage: StoragePath, project: str, run: str) -> Iterator[None]:
    """One of several trainings of a process; see :func:`prepare_trackers`. Its run is ended at the end.

    A stage on object storage gets the files then, since they grow until then.
    """
    folder = stage.local if stage.is_local else Path(_scratch().name)
    added = prepare_trackers(names, folder, project, run)
    try:
        yield
    finally:
        for variable in added:
            del os.environ[variable]
        if "wandb" in names:  # the next training would go on in this run
            import_module("wandb").finish()
        if names and not stage.is_local:
            copy_folder(folder / FOLDER, stage / FOLDER)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """One for this process, as long as it lives: Trackio keeps to the folder that it found first."""
    return tempfile.TemporaryDirectory(prefix="pdray-trackers-")


def _variables(name: str, folder: Path, project: str) -> dict[str, str]:
    if name == "tensorboard":
        return {"TENSORBOARD_LOGGING_DIR": str(folder)}
    if name == "wandb":
        # Offline, the process that writes would still report its errors.
        offline = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
        offline = {} if "WANDB_API_KEY" in os.environ else offline
        return {"WANDB_DIR": str(folder), "WANDB_PROJECT": project, **offline}
    if name == "mlflow":
        own = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": project}
        return own | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    assert name == "trackio", name
    return {"TRACKIO_DIR": str(folder)}
