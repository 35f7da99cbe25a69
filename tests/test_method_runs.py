"""A small comparison from corpus to figures: kept runs are used again, a change of size is another folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.method import __main__ as command
from benchmarks.method.lab import Setting, Size
from benchmarks.method.training import swap, with_terms

TINY = command.Plan(
    Size(pairs=160, held_out=24, sft_epochs=1, proxy_epochs=1), (0.2,), (0,), (("sft", "pd", "dfpo"),), {}
)


def test_a_swapped_pair_is_labelled_the_other_way_round() -> None:
    pair = {
        "prompt_ids": [1],
        "chosen_ids": [2],
        "rejected_ids": [3],
        "ref_chosen_logps": 4.0,
        "ref_rejected_logps": 5.0,
    }
    assert swap(pair) == pair | {
        "chosen_ids": [3],
        "rejected_ids": [2],
        "ref_chosen_logps": 5.0,
        "ref_rejected_logps": 4.0,
    }
    assert swap(swap(pair)) == pair


def test_dfpos_terms_are_the_number_of_aspects_and_the_divergence() -> None:
    pairs = with_terms([{}, {}, {}], ["a", "b", "a"], np.array([-1.0, 0.5, 0.0]))
    assert pairs == [{"kappa": 2.0, "divergence": one} for one in (-1.0, 0.5, 0.0)]


def test_every_run_of_the_plan_comes_once_and_the_sweep_last() -> None:
    runs = list(command.Plan().runs())
    assert len({run[:4] for run in runs}) == len(runs) == 3 * 3 * 10 + 3 * len(command.SWEEP)
    assert all(run[4] == Setting() for run in runs[:90])
    assert {run[:3] for run in runs[90:]} == {(seed, 0.2, "pd") for seed in range(3)}


def test_another_size_or_world_is_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    before = command.config_of(Size())
    assert command.config_of(Size(pairs=800)) != before
    monkeypatch.setattr(command.world, "CARE", 2.0)
    assert command.config_of(Size()) != before


@pytest.mark.slow
def test_a_small_comparison_and_the_same_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SMALL", TINY)
    out = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", ["x", "--small", "--folder", str(tmp_path / "runs"), "--out", str(out)])
    command.main()
    rows = {row["strategy"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["sft"]["accuracy"] == [0.5, 0.5, 0.5]
    assert (rows["pd"]["pairs"], rows["dfpo"]["pairs"]) == (48, 160)
    assert rows["dfpo"]["conflict"] == 0.2
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    (run,) = (tmp_path / "runs").rglob("run-dfpo-.json")
    run.unlink()
    command.main()
    again = {row["strategy"]: row for row in json.loads(out.read_text())["rows"]}
    assert again["dfpo"]["accuracy"] == rows["dfpo"]["accuracy"]
    assert again["pd"] == rows["pd"]
    assert [path for path, time in kept.items() if path.stat().st_mtime_ns != time] == [run]
