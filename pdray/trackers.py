"""Experiment trackers: which ones are there, and what keeps their files in the run folder.

The trainers of Transformers write to them; a tracker's own variables, where the user has set them, win.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pdray.errors import UserError

FOLDER = "trackers"
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}


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


def prepare_trackers(names: Sequence[str], folder: Path, project: str) -> None:
    """Set this process's variables so that trackers write below a folder and call nobody.

    Call it before a trainer is built, in the process that logs. W&B stays offline unless WANDB_API_KEY or WANDB_MODE
    says otherwise; usage statistics and error reports are off as well. Trackio reads its project from the trainer's
    arguments.

    Args:
        names: of the trackers.
        folder: of a stage; the files go to ``trackers/<name>`` in it.
        project: the name under which the runs of trackers stand.
    """
    for name in names:
        own = folder / FOLDER / name
        own.mkdir(parents=True, exist_ok=True)
        for variable, value in _variables(name, own, project).items():
            os.environ.setdefault(variable, value)


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
