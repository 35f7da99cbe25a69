"""The tables of README.md and docs/ are those of the result files, and a ratio that got worse is said to be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.bench import BASELINES, compare
from benchmarks.harness import in_fresh_process
from benchmarks.tables import BLOCK, PAGES, TABLES, filled


def test_the_tables_of_the_pages_are_those_of_the_results() -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    names = {block["name"] for page in pages for block in BLOCK.finditer(page)}
    assert names and names <= set(TABLES)
    assert [filled(page) for page in pages] == pages, "run python -m benchmarks.tables"


@pytest.mark.parametrize(
    ("better", "seconds", "verdict"),
    [("lower", 11.0, "ok"), ("lower", 13.0, "worse"), ("higher", 9.0, "ok"), ("higher", 7.0, "worse")],
)
def test_a_ratio_may_be_worse_by_its_tolerance_and_no_more(better: str, seconds: float, verdict: str) -> None:
    rows: list[dict[str, Any]] = [{"contender": "a", "seconds": seconds}, {"contender": "b", "seconds": 10.0}]
    ratio = {"figure": "seconds", "of": {"contender": "a"}, "to": {"contender": "b"}, "better": better}
    assert compare("x", rows, ratio | {"expected": 1.0, "tolerance": 0.2})["verdict"] == verdict


def test_a_part_that_hangs_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('loading', child.pid, flush=True)\n"
        "child.wait()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"--form x took more than 5 s:\nloading \d+") as ended:
        in_fresh_process("hanging", ["--form", "x"], tmp_path / "scratch", seconds=5)
    child = int(str(ended.value).split()[-1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_every_baseline_names_a_benchmark() -> None:
    for path in BASELINES.glob("*.json"):
        assert importlib.util.find_spec(f"benchmarks.{path.stem}") is not None
