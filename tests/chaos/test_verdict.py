"""When a case of the chaos suite holds, and that every stage meets every kill."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.__main__ import attempt, holds, run_cases
from benchmarks.chaos.faults import fault_cases
from benchmarks.chaos.kills import kill_cases
from benchmarks.chaos.lab import Case, Lab
from benchmarks.chaos.runs import STAGES

GOOD = {"ids_equal": True, "orphans": 0, "again": 2}


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, True),
        ({"ids_equal": False}, False),
        ({"orphans": 1}, False),
        ({"again": 3}, False),
        ({"failed": "x"}, False),
    ],
)
def test_a_case_holds_with_the_same_ids_no_orphans_and_a_shard_again_for_each_engine(
    change: dict[str, Any], held: bool
) -> None:
    assert holds(GOOD | change) is held


def test_a_case_that_fails_becomes_a_row_and_does_not_stop_the_others(tmp_path: Path) -> None:
    def fail(lab: Lab) -> dict[str, Any]:
        raise AssertionError("the run hangs")

    somebody_else = subprocess.Popen(["sleep", "60"])
    row = attempt(Lab(tmp_path, None, 10, 1.0), "name", Case("kill", "scores", fail))
    with pytest.raises(subprocess.TimeoutExpired):
        somebody_else.wait(0.5)
    somebody_else.kill()
    somebody_else.wait()
    assert (row["failed"], row["held"], row["stage"]) == ("AssertionError: the run hangs", False, "scores")


def test_rows_of_other_cases_stay_in_the_result_file(tmp_path: Path) -> None:
    def run(*names: str, shards: int) -> list[tuple[str, int]]:
        cases = {name: Case("x", "scores", lambda lab: GOOD | {"shards": shards}) for name in names}
        run_cases(Lab(tmp_path, None, 10, 1.0), cases, tmp_path / "out.json")
        rows = json.loads((tmp_path / "out.json").read_text())["rows"]
        assert all(len(row["date"]) == len("2000-01-01") for row in rows)
        return [(row["case"], row["shards"]) for row in rows]

    assert run("twice-jobs", "node-scores", shards=1) == [("node-scores", 1), ("twice-jobs", 1)]
    assert run("node-scores", "driver-corpus", shards=2) == [
        ("driver-corpus", 2),
        ("node-scores", 2),
        ("twice-jobs", 1),
    ]


def test_driver_worker_and_node_are_killed_in_every_stage() -> None:
    cases = kill_cases()
    assert {f"{victim}-{stage}" for victim in ("driver", "worker", "node") for stage in STAGES} <= set(cases)
    assert not set(cases) & set(fault_cases())
