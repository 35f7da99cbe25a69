"""The rows of the method's benchmark become the tables of docs/benchmarks.md and two pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.method.__main__ import SWEEP, Plan
from benchmarks.method.report import rows_of, verdicts
from benchmarks.method.shape import HOLDS, claims
from benchmarks.pictures import draw_method, draw_shape
from tests.test_method_shape import runs

MEANS = {"sft": 0.5, "pd": 0.8, "random": 0.6, "all": 0.62}


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict[str, Any]]]:
    """The rows of both files."""
    found = runs(MEANS, [0.1, 0.3])
    facts = {"pairs": 480, "conflict": 0.0625, "auroc": 0.71, "cpu_seconds": 41.3}
    known = [run | (facts if run["strategy"] == "pd" else {}) for run in found]
    return {"method-2core": rows_of(known), "method-2core-shape": verdicts(known, claims([0.1, 0.3], 0.2))}


def test_the_lines_of_the_paper_ask_for_settings_that_are_run() -> None:
    plan = Plan()
    planned = {(level, strategy, name) for _, level, strategy, name, _ in plan.runs()}
    asked = {key for claim in claims(list(plan.levels), 0.2) for key in claim.terms}
    assert {(key.level, key.strategy, key.setting) for key in asked} <= planned
    assert {key.setting for key in asked} - {""} <= set(SWEEP)


def test_tables(results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for name, rows in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    lines = tables.table("method").splitlines()
    assert lines[0].count("conflicts |") == 2, "no column for the level that was not run"
    assert lines[2].startswith("| sft | – | 0.")
    (pd,) = [line for line in lines if line.startswith("| pd ")]
    assert pd.startswith("| pd | 480 | 0.")
    assert pd.endswith("| 0.062 | 0.062 | 41 |")
    swept = [
        {"level": 0.2, "strategy": "pd", "setting": setting, "pairs": pairs}
        for setting, pairs in (("γ = 1.0", 3), ("", 3), ("λ = 0.5", 5), ("λ = 0.1", 1))
    ]
    assert [row["budget"] for row in tables.by_budget(swept)] == ["0.1", "0.3", "0.5"]
    shape = tables.table("method-shape").splitlines()
    assert len(shape) == 2 + 5
    assert shape[2].startswith("| at 10% PD beats RAND | 3 | +0.")
    assert shape[2].count(HOLDS) == 2


def test_pictures(results: dict[str, Any], tmp_path: Path) -> None:
    for name, draw in (("method-2core", draw_method), ("method-2core-shape", draw_shape)):
        first, again = tmp_path / f"{name}.svg", tmp_path / f"{name}-again.svg"
        for path in (first, again):
            draw(results[name], path)
        assert first.read_bytes() == again.read_bytes()
        assert first.stat().st_size > 5000
