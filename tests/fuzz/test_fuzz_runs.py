"""Damaged run folders run to their end by a process of their own; a minute each, so in the long form only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.case import TALLY, Outcome, check, judge
from tests.fuzz.folders import damaged_copy, lost_stages
from tests.fuzz.world import World

RUNS = 30
SECONDS = 400


@pytest.mark.skipif(os.environ.get("PDRAY_FUZZ") != "long", reason="takes half an hour: make fuzz")
@settings(max_examples=RUNS, phases=[Phase.generate])
@given(data=st.data())
def test_real_runs(finished: World, here: Path, data: st.DataObject) -> None:
    run = here / "run"
    harm = damaged_copy(finished.run, run, data)
    words = ["run", str(finished.config), "--set", f"run={run}"]
    done = subprocess.run(
        [sys.executable, "-m", "pdray", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    outcome = Outcome(tuple(words), done.returncode, done.stdout, done.stderr)
    TALLY["whole run", outcome.name] += 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("pdray") or "Traceback" in line]
    judge(Outcome(outcome.words, outcome.code, outcome.out, "\n".join(errors)))  # without the lines of progress
    if outcome.code == 0:
        assert not lost_stages(harm, run, finished.run), harm
        assert check("dry run after", *words, "--dry-run").out.count(" done ") == 5
        assert kept_ids(run, selection(run)) == kept_ids(finished.run, selection(finished.run)), harm


def selection(run: Path) -> str:
    """The folder of the current selection."""
    state: dict[str, Any] = json.loads((run / "run.json").read_text())
    return str(state["stages"]["selection"])


def kept_ids(run: Path, folder: str) -> list[str]:
    """Ids of the pairs that a selection kept, sorted."""
    tables = [pq.read_table(path, columns=["pair_id"]) for path in (run / folder / "kept").glob("*.parquet")]
    return sorted(pair for table in tables for pair in table["pair_id"].to_pylist())
