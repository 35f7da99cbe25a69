"""Repeated selection for real: two rounds from texts to policies, and a driver that is killed in the second."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.whole_run import write_small_config, write_yaml

pytestmark = pytest.mark.slow
LIMIT = 3000.0  # seconds, of what takes some minutes on an idle machine
ONCE = ["corpus", "proxies", "scores"]
OF_A_ROUND = ["logprobs", "selection", "alignment"]


def pdray(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pdray", *words], capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


def show(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pdray("show", str(run), "--json").stdout)
    return found


def table_of(run: Path, stage: str, name: str) -> Any:
    return pq.read_table(run / show(run)["stages"][stage]["folder"] / name)


def kept(run: Path) -> list[str]:
    return sorted(table_of(run, "selection", "kept")["pair_id"].to_pylist())


def log_of(run: Path) -> list[dict[str, Any]]:
    """The training's steps, without what a clock says."""
    lines = (run / show(run)["stages"]["alignment"]["folder"] / "training.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    return [{name: step[name] for name in ("step", "loss") if name in step} for step in steps]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run of two rounds that has ended; a policy of few steps that tells pairs apart."""
    folder = tmp_path_factory.mktemp("rounds")
    config = write_small_config(folder)
    settings = yaml.safe_load(config.read_text())
    settings["rounds"] = 2
    settings["cluster"] = {"num_cpus": 2}
    settings["corpus"]["texts_per_shard"] = 100
    settings["proxies"] |= {"train": "head", "reading": "together"}
    settings["logprobs"] = {"policy": settings["alignment"]["policy"], "engine": "transformers", "max_tokens": 128}
    settings["selection"] = {"strategy": "pd_potential"}
    settings["alignment"] |= {"max_steps": 6, "learning_rate": 3e-3}
    pdray("run", str(write_yaml(config, settings)))
    return config


def test_each_round_is_a_run_of_its_own(rounds: Path, tmp_path: Path) -> None:
    run = Path(yaml.safe_load(rounds.read_text())["run"])
    first, second = run / "rounds" / "01", run / "rounds" / "02"
    assert show(run)["rounds"] == ["rounds/01", "rounds/02"]
    for one in (first, second):
        stages = show(one)["stages"]
        assert {name for name, stage in stages.items() if stage["status"] == "complete"} == {*ONCE, *OF_A_ROUND}
        assert all((one / stages[name]["folder"]).is_symlink() for name in ONCE)
        assert len(kept(one)) == 36
        assert "logp.policy" in table_of(one, "logprobs", "texts").column_names
        assert (one / "report.html").is_file()
    assert kept(first) != kept(second), "the first round's policy tells other pairs apart than the untouched one"
    policies = [(one / show(one)["stages"]["alignment"]["folder"] / "policy") for one in (first, second)]
    assert len({(policy / "model.safetensors").read_bytes() for policy in policies}) == 2
    two = tmp_path / "two.html"
    pdray("report", str(first), str(second), "--out", str(two))
    assert "selection.strategy" not in two.read_text().partition("Settings that differ")[2], "rounds differ in pairs"
    pdray("export", str(second), str(tmp_path / "data"))
    assert (tmp_path / "data" / "README.md").is_file()


def test_a_driver_that_is_killed_in_the_second_round_goes_on_there(rounds: Path, tmp_path: Path) -> None:
    undisturbed = Path(yaml.safe_load(rounds.read_text())["run"])
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run, symlinks=True)
    shutil.rmtree(run / "rounds" / "02")
    command = [sys.executable, "-m", "pdray", "run", str(rounds), "--set", f"run={run}"]
    with (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + LIMIT
        while not list(run.glob("rounds/02/alignment-*")):
            assert driver.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()
            time.sleep(0.05)
        driver.kill()
        driver.wait()
    made = {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}
    assert not list(run.glob("rounds/02/alignment-*/manifest.json"))
    out = pdray(*command[3:]).stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made, "nothing is done again"
    assert "round      2 of 2" in out
    for number in ("01", "02"):
        one, other = run / "rounds" / number, undisturbed / "rounds" / number
        assert kept(one) == kept(other)
        assert log_of(one) == log_of(other)
    assert pdray(*command[3:]).stdout.count("nothing to do") == 3
