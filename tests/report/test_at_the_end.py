"""The page at the end of a run: written where that is quick, and never in the way of the run."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdray import pipeline
from pdray.console import Console
from pdray.store import MANIFEST, RunStore
from tests.report.cases import folder_of, make_run


def told(root: Path, until: str = "selection", **output: Any) -> str:
    """What a run in the folder says of its page."""
    out = io.StringIO()
    found = {"corpus": SimpleNamespace(pairs=120, **output), "selection": SimpleNamespace()}
    steps: Any = [
        SimpleNamespace(stage=SimpleNamespace(name=name), output=one if until == "selection" or name == until else None)
        for name, one in found.items()
    ]
    pipeline._write_page(SimpleNamespace(run=str(root)), steps, Console(out, io.StringIO()))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.usefixtures("no_drawing")
def test_a_run_with_a_selection_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    page = tmp_path / "report.html"
    assert told(tmp_path, until="corpus") == ""
    assert not page.exists()
    assert told(tmp_path) == f"report     {page}\n"
    assert "120 pairs went in" in page.read_text()
    page.unlink()
    monkeypatch.setattr(pipeline, "MOST_PAIRS_ON_A_PAGE", 119)
    assert told(tmp_path) == f"report     not written by itself for 120 pairs; pdray report {tmp_path} writes it\n"
    assert not page.exists()


@pytest.mark.usefixtures("no_drawing")
def test_a_page_of_another_selection_is_written_anew(tmp_path: Path) -> None:
    """Another budget has left its page; the run that has its own selection already must not keep that."""
    made = make_run(tmp_path)
    store = RunStore(str(tmp_path))
    manifests = [(folder_of(made.run, name) / MANIFEST).read_json() for name in ("corpus", "selection")]
    steps: Any = [*(SimpleNamespace(manifest=manifest) for manifest in manifests), SimpleNamespace(manifest=None)]
    assert not pipeline._page_shows(store, steps), "no page"
    told(tmp_path)
    assert pipeline._page_shows(store, steps)
    manifests[1]["fingerprint"] = "ef" * 32
    assert not pipeline._page_shows(store, steps)


@pytest.mark.usefixtures("no_drawing")
def test_what_hinders_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    (tmp_path / "report.html").mkdir()
    assert (
        told(tmp_path)
        == f"report     none: {tmp_path}/report.html should be a file, but a folder stands there; move it away\n"
    )

    def broken(_: Any) -> str:
        raise ZeroDivisionError("not foreseen")

    monkeypatch.setattr("pdray.report.page.write_report", broken)
    assert told(tmp_path) == "report     none: ZeroDivisionError: not foreseen\n"
