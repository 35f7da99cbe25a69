"""Trackers: refused where they are not installed, and kept to the run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from pdray.config.section import Tracker
from pdray.errors import UserError
from pdray.storage import StoragePath
from pdray.trackers import PACKAGES, check_trackers, prepare_trackers, tracked


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers("alignment.report_to", ["tensorboard"])
    monkeypatch.setitem(PACKAGES, "mlflow", ("mlflow_that_is_not_there",))
    with pytest.raises(UserError, match=r"alignment\.report_to names mlflow, .* pip install mlflow, or take it out"):
        check_trackers("alignment.report_to", ["tensorboard", "mlflow"])


def test_every_tracker_of_the_setting_is_known() -> None:
    assert set(get_args(Tracker)) == PACKAGES.keys()


def test_files_go_below_the_folder_and_nobody_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"MLFLOW_TRACKING_URI": "http://mine"})
    prepare_trackers(list(PACKAGES), tmp_path, "project")
    assert os.environ.pop("MLFLOW_TRACKING_URI") == "http://mine", "the user's own variables win"
    assert os.environ["WANDB_MODE"] == "offline"
    assert (os.environ["WANDB_ERROR_REPORTING"], os.environ["MLFLOW_DISABLE_TELEMETRY"]) == ("false", "true")
    folders = {name: value for name, value in os.environ.items() if name.endswith("_DIR")}
    assert folders == {
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "trackers" / "tensorboard"),
        "WANDB_DIR": str(tmp_path / "trackers" / "wandb"),
        "TRACKIO_DIR": str(tmp_path / "trackers" / "trackio"),
    }
    assert all(Path(folder).is_dir() for folder in folders.values())


def test_wandb_with_a_key_of_the_users_is_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"WANDB_API_KEY": "a key"})  # pragma: allowlist secret
    prepare_trackers(["wandb"], tmp_path, "project")
    assert "WANDB_MODE" not in os.environ


def test_a_stage_gets_the_files_of_each_training(folder: StoragePath) -> None:
    """Trackio looks for its folder once in a process, so that one must stay."""
    seen = set()
    for run in ("first", "second"):
        with tracked(["tensorboard", "trackio"], folder, "project", run):
            Path(os.environ["TENSORBOARD_LOGGING_DIR"], "events").write_text(run)
            seen.add(os.environ["TRACKIO_DIR"])
        assert "TRACKIO_DIR" not in os.environ
    (kept,) = seen
    assert Path(kept).is_dir()
    files = {f"trackers/tensorboard/{run}/events" for run in ("first", "second")}
    assert set(folder.sizes(recursive=True)) == files
