"""The benchmark of what is left of length bias: its figures by hand, and a small run of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import length_bias
from benchmarks.length_bias import correlation, interval
from benchmarks.method.data import FILES
from tests.test_method_runs import write_data
from tests.tiny import tiny_encoder


def test_the_correlation_is_the_mean_over_the_aspects() -> None:
    difference = np.array([-2, 0, 1, 5])
    rising, falling, flat = difference * 3.0, -difference / 7.0, np.zeros(4)
    assert correlation(difference, np.stack([rising, rising], axis=1)) == pytest.approx(1)
    assert correlation(difference, np.stack([rising, falling, flat], axis=1)) == pytest.approx(0)


def test_the_interval_draws_whole_prompts() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(40) < 0.6).astype(float)
    mean = lambda values: lambda rows: float(values[rows].mean())  # noqa: E731
    alone = interval(mean(right), np.arange(40), 0)
    assert alone == interval(mean(right), np.arange(40), 0)
    assert alone[0] == pytest.approx(right.mean()) and alone[1] < alone[0] < alone[2]
    together = interval(mean(np.repeat(right, 25)), np.repeat(np.arange(40), 25), 0)
    assert together == pytest.approx(alone)


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, base, out = write_data(tmp_path / "data"), tiny_encoder(tmp_path / "base"), tmp_path / "x.json"
    words = ["x", "--data", str(data), "--base", str(base), "--scratch", str(tmp_path / "scratch"), "--pairs", "60"]
    monkeypatch.setattr(sys, "argv", [*words, "--max-tokens", "48", "--out", str(out)])
    length_bias.main()
    rows = {(row["corpus"], row["variant"]): row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {(name, variant) for name in FILES for variant in length_bias.VARIANTS}
    for name in FILES:
        assert rows[name, "no remedy"]["temperature"] == [None, None]
        assert rows[name, "default"]["penalty"] == [0.001, 0.001]
        assert rows[name, "default"]["loss_penalty"] == [0.001, 0.001]
        assert rows[name, "ρ auto, residual"]["penalty"] == [0.0, 0.0]
        assert max(map(abs, rows[name, "ρ auto"]["reached"])) < 0.1
    assert "auroc" in rows["SummEval", "default"] and "auroc" not in rows["hh-rlhf", "default"]
