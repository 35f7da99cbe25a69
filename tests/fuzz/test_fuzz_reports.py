"""Reports on run folders that are damaged: a page that names what is wrong, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.case import check
from tests.fuzz.folders import damaged_copy
from tests.fuzz.world import cases
from tests.report.cases import make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never ran."""
    root = tmp_path_factory.mktemp("made") / "run"
    make_run(root, 24)
    return root


@pytest.mark.usefixtures("no_drawing", "no_ray")
@cases(15)
@given(data=st.data())
def test_reports(made: Path, here: Path, data: st.DataObject) -> None:
    harm = damaged_copy(made, here / "run", data)
    outcome = check("report", "report", str(here / "run"), "--out", str(here / "page.html"))
    assert outcome.code in (0, 2), harm
