"""The run folder in use: a whole run, the same run again, another budget, a second driver, a moved folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pdray.store import RunStore
from tests.listeners import beyond_loopback, watch


def pdray(*words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pdray", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def watched(*words: str) -> tuple[subprocess.CompletedProcess[str], set[tuple[str, str]]]:
    """The command and what it listened on."""
    command = [sys.executable, "-m", "pdray", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        found = watch(run)
        out, err = run.communicate()
    return subprocess.CompletedProcess(command, run.returncode, out, err), found


def show(run: Path) -> dict:
    done = pdray("show", str(run), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["stages"]


@pytest.fixture
def config(small_run_config: Path) -> Path:
    """The small run, on vLLM, with a head on a frozen backbone."""
    settings = yaml.safe_load(small_run_config.read_text())
    settings["cluster"] = {"num_cpus": 2}
    settings["proxies"]["train"] = "head"
    settings["scores"]["engine"] = "vllm"
    settings["scores"]["cpu_cache_gib"] = 0.25
    small_run_config.write_text(yaml.safe_dump(settings))
    return small_run_config


def test_a_run_from_start_to_recut(config, tmp_path):
    run = tmp_path / "run"

    dry = pdray("run", str(config), "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.count("to run") == 5
    assert not run.exists()

    done, found = watched("run", str(config))
    assert done.returncode == 0, done.stderr
    assert any("RayTrainWorker" in name for _, name in found)
    assert beyond_loopback(found) == []
    assert "parity" not in done.stdout
    assert all(line.strip() for line in done.stderr.splitlines())
    stages = show(run)
    optional = dict.fromkeys(["logprobs", "evaluation"], "not configured")
    assert {name: stage["status"] for name, stage in stages.items()} == dict.fromkeys(stages, "complete") | optional
    assert (stages["corpus"]["rows"], stages["corpus"]["quarantined"]) == (120, 0)
    assert stages["scores"]["engine"] == "vllm"
    assert stages["scores"]["max_parity_error"] < 1e-3
    assert (stages["selection"]["rows"], stages["selection"]["budget"]) == (36, 0.3)
    assert set(stages["selection"]["conflict"]) == {"all", "kept", "random"}
    assert stages["alignment"]["engine"] == "DeepSpeedEngine"
    assert stages["alignment"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)

    with RunStore(run).lock():
        second = pdray("run", str(config))
        assert (second.returncode, "is in use by process" in second.stderr) == (3, True)

    start = time.monotonic()
    again = pdray("run", str(config))
    assert time.monotonic() - start < 5
    assert again.stdout.startswith("nothing to do")

    code = "import pdray, sys; tenth = pdray.Run(sys.argv[1]).select(budget=0.1); print(tenth.table('kept').num_rows)"
    recut = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, timeout=400)
    assert recut.returncode == 0, recut.stderr
    assert recut.stdout.splitlines()[-1] == "12"
    assert pdray("select", str(config), "--set", "selection.budget=0.1").stdout.startswith("nothing to do")
    assert len(list(run.glob("scores-*"))) == len(list(run.glob("proxies-*"))) == 1
    assert len(list(run.glob("selection-*"))) == 2
    small = show(run)["selection"]
    ranked = pq.read_table(run / small["folder"] / "ranked").sort_by("rank")
    before = pq.read_table(run / stages["selection"]["folder"] / "ranked").sort_by("rank")
    assert ranked["pair_id"].to_pylist() == before["pair_id"].to_pylist()[:12]
    text = pq.read_table(run / small["folder"] / "kept")
    assert {"prompt", "chosen", "rejected"} <= set(text.column_names)
    assert sorted(text["pair_id"].to_pylist()) == sorted(ranked["pair_id"].to_pylist())

    # A run folder that was moved is the same run.
    run.rename(tmp_path / "moved")
    words = [str(config), "--set", "selection.budget=0.1", "--set", f"run={tmp_path / 'moved'}"]
    assert pdray("select", *words).stdout.startswith("nothing to do")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.yaml"], "no config file at nowhere.yaml"),
        (["show", "nowhere"], "no run in nowhere"),
        (["select", "{config}", "--set", "selection.budget=3"], "selection.budget is 3"),
        (["select", "{config}", "--set", "selection.budget=0.001"], "keeps none"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_code_2(config, words, message):
    done = pdray(*[word.format(config=config) for word in words])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
