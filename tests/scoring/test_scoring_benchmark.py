"""The benchmark's command line."""

from __future__ import annotations

import sys

import pytest

from benchmarks import scoring


def test_the_benchmark_asks_for_its_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["scoring", "--out", "row.json"])
    with pytest.raises(SystemExit) as end:
        scoring.parse()
    assert end.value.code == 2
    assert "the following arguments are required: --data" in capsys.readouterr().err
