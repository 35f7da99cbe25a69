"""A whole run on a real S3 server, up to the selection, its model too: nothing of it needs a path that nodes share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdray.storage import StoragePath, copy_folder
from tests.s3 import FakeFaults, S3Server


def pdray(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pdray", *words],
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))},
    )


def kept_ids(run: str, stages: dict[str, Any]) -> list[str]:
    folder = StoragePath(run) / stages["selection"]["folder"] / "kept"
    return sorted(one for name in folder.sizes() for one in (folder / name).read_table(["pair_id"])[0].to_pylist())


@pytest.fixture
def config(small_run_config: Path) -> Path:
    """The small run without alignment, which needs a mount; the head alone is trained."""
    settings = yaml.safe_load(small_run_config.read_text())
    del settings["alignment"]
    settings["cluster"] = {"num_cpus": 2}
    settings["proxies"]["train"] = "head"
    settings["selection"] = {"budget": 0.3}
    small_run_config.write_text(yaml.safe_dump(settings))
    return small_run_config


@pytest.mark.slow
def test_a_run_on_object_storage(s3_server: S3Server, config: Path, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    # A storage that refuses now and then and in bursts is what a user has.
    faults = FakeFaults(s3_server.endpoint, every=40, burst=2)
    with faults.proxy() as proxy:
        run, base = proxy.uri("runs/my run"), proxy.uri("models/my base")
        copy_folder(Path(yaml.safe_load(config.read_text())["proxies"]["base_model"]), StoragePath(base))
        settings = ["--set", f"run={run}", "--set", f"proxies.base_model={base}"]
        done = pdray("run", str(config), *settings, cwd=place)
        assert done.returncode == 0, done.stderr
        assert os.listdir(place) == [], "something was written beside the run"
        assert faults.refused > 0

        shown = pdray("show", run, "--json", cwd=place)
        assert shown.returncode == 0, shown.stderr
        stages = json.loads(shown.stdout)["stages"]
        found = {name: stage["status"] for name, stage in stages.items() if stage["status"] != "not configured"}
        assert found == dict.fromkeys(["corpus", "proxies", "scores", "selection"], "complete")
        assert (stages["corpus"]["rows"], stages["selection"]["rows"]) == (120, 36)
        ids = kept_ids(run, stages)
        assert len(ids) == 36

        # The same model on a disk is the same model.
        again = pdray("run", str(config), "--set", f"run={run}", cwd=place)
        assert again.stdout.startswith("nothing to do"), again.stderr


def test_keys_that_are_refused_are_a_sentence(
    s3_server: S3Server, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done = pdray("run", str(config), "--set", f"run={s3_server.uri('runs/refused')}", cwd=tmp_path)
    assert done.returncode == 2
    assert "refuses the credentials of this process" in done.stderr
    assert "Traceback" not in done.stderr
