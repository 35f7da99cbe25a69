"""The short form of the chaos suite: a worker is killed, then the driver, and the same pairs come out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_worker_and_then_the_driver_are_killed(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "benchmarks.chaos", "--cases", "local", "--pairs", "160", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert 0 < row["done_at_fault"] < row["shards"]
    assert (row["ids_equal"], row["orphans"], row["again"] <= 1) == (True, 0, True)
    assert row["exit_codes"] == [-9, 0]
