"""Run folders that are damaged: shown, checked and run as far as Ray; what is not whole never counts as complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.case import check
from tests.fuzz.folders import damaged_copy, lost_stages
from tests.fuzz.world import World, cases


@pytest.mark.usefixtures("no_ray")
@cases(150)
@given(data=st.data(), json=st.booleans())
def test_run_folders(finished: World, here: Path, data: st.DataObject, json: bool) -> None:
    run = here / "run"
    harm = damaged_copy(finished.run, run, data)
    check("show", "show", str(run), *(["--json"] if json else []))
    words = [str(finished.config), "--set", f"run={run}"]
    dry = check("dry run", "run", *words, "--dry-run")
    done = {line.split()[0] for line in dry.out.splitlines() if line.split()[1:2] == ["done"]}
    assert not done & lost_stages(harm, run, finished.run), harm
    real = check("run to Ray", "run", *words)
    assert real.code or not lost_stages(harm, run, finished.run), harm
