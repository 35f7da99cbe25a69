"""The run folder in use: a whole run, the same run elsewhere, again, cut at another budget, beside a second driver."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pdray.store import RunStore
from tests.listeners import beyond_loopback
from tests.whole_run import write_yaml


def pdray(*words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pdray", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def show(run: Path) -> dict:
    done = pdray("show", str(run), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["stages"]


def test_a_dry_run_makes_nothing(small_run_config, tmp_path):
    dry = pdray("run", str(small_run_config), "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.count("to run") == 5
    assert not (tmp_path / "run").exists()


def test_a_whole_run(whole_run):
    """A head on a frozen backbone, vLLM, DPO."""
    assert whole_run.code == 0, whole_run.err
    assert any("RayTrainWorker" in name for _, name in whole_run.listened)
    assert beyond_loopback(whole_run.listened) == []
    assert "parity" not in whole_run.out
    assert all(line.strip() for line in whole_run.err.splitlines())
    assert f"report     {whole_run.run}/report.html\n" in whole_run.out
    assert (whole_run.run / "report.html").stat().st_mode & 0o777 == 0o600
    stages = show(whole_run.run)
    optional = dict.fromkeys(["logprobs", "crossfit", "evaluation"], "not configured")
    assert {name: stage["status"] for name, stage in stages.items()} == dict.fromkeys(stages, "complete") | optional
    assert (stages["corpus"]["rows"], stages["corpus"]["quarantined"]) == (120, 0)
    assert stages["scores"]["engine"] == "vllm"
    assert stages["scores"]["max_parity_error"] < 1e-3
    assert (stages["selection"]["rows"], stages["selection"]["budget"]) == (36, 0.3)
    assert set(stages["selection"]["conflict"]) == {"all", "kept", "random"}
    assert stages["alignment"]["engine"] == "DeepSpeedEngine"
    assert stages["alignment"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)


def test_the_same_again_and_another_budget(whole_run, tmp_path):
    """On a copy, which is the same run with the same stages, wherever it lies."""
    run, config = tmp_path / "run", whole_run.config
    shutil.copytree(whole_run.run, run, symlinks=True)
    here = ["--set", f"run={run}"]
    stages = show(run)
    with RunStore(run).lock():
        second = pdray("run", config, *here)
        assert (second.returncode, "is in use by process" in second.stderr) == (3, True)

    again = pdray("run", config, *here)
    assert again.stdout.startswith("nothing to do")

    own = write_yaml(tmp_path / "run.yaml", whole_run.settings | {"run": str(run)})
    code = "import pdray, sys; tenth = pdray.Run(sys.argv[1]).select(budget=0.1); print(tenth.table('kept').num_rows)"
    recut = subprocess.run([sys.executable, "-c", code, str(own)], capture_output=True, text=True, timeout=400)
    assert recut.returncode == 0, recut.stderr
    assert recut.stdout.splitlines()[-1] == "12"
    assert pdray("select", str(own), "--set", "selection.budget=0.1").stdout.startswith("nothing to do")
    assert len(list(run.glob("scores-*"))) == len(list(run.glob("proxies-*"))) == 1
    assert len(list(run.glob("selection-*"))) == 2
    small = show(run)["selection"]
    ranked = pq.read_table(run / small["folder"] / "ranked").sort_by("rank")
    before = pq.read_table(run / stages["selection"]["folder"] / "ranked").sort_by("rank")
    assert ranked["pair_id"].to_pylist() == before["pair_id"].to_pylist()[:12]
    text = pq.read_table(run / small["folder"] / "kept")
    assert {"prompt", "chosen", "rejected"} <= set(text.column_names)
    assert sorted(text["pair_id"].to_pylist()) == sorted(ranked["pair_id"].to_pylist())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.yaml"], "no config file at nowhere.yaml"),
        (["show", "nowhere"], "no run in nowhere"),
        (["select", "{config}", "--set", "selection.budget=3"], "selection.budget is 3"),
        (["select", "{config}", "--set", "selection.budget=0.001"], "keeps none"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_code_2(small_run_config, words, message):
    done = pdray(*[word.format(config=small_run_config) for word in words])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
