"""What ``pdray data`` builds is what the corpus stage reads."""

from __future__ import annotations

import pytest

from pdray.builders.build import build
from pdray.config import CorpusConfig
from pdray.corpus import stage
from tests.builders.published import helpsteer, ultrafeedback, write_lines
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")


def test_the_corpus_finds_the_share_of_conflicts_that_was_asked_for(tmp_path):
    source = write_lines(tmp_path / "uf.jsonl", ultrafeedback(1200))
    manifest = build("ultrafeedback", str(tmp_path / "uf"), [source], conflict=0.2)
    result = run_stage(stage.STAGE, tmp_path / "run", corpus=CorpusConfig(path=str(tmp_path / "uf")))
    assert (result.rows_in, result.rows_out, result.quarantined) == (manifest["pairs"], manifest["pairs"], 0)
    assert result.metrics["conflict"] == pytest.approx(manifest["conflict"], abs=1e-12)
    assert abs(result.metrics["conflict"] - 0.2) <= 0.005
    assert result.output.licensed and result.metrics["licenses"] == manifest["licenses"]
    assert result.metrics["aspect_rows"] == {name: one["pairs"] for name, one in manifest["aspects"].items()}


def test_conversations_are_read(tmp_path):
    turns = "q{}\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nGo on."
    rated = [
        (turns.format(i), text, rating, 4 - rating, 1, rating, 2) for i in range(9) for rating, text in enumerate("ab")
    ]
    source = write_lines(tmp_path / "hs.jsonl", [helpsteer(*one) for one in rated])
    manifest = build("helpsteer2", str(tmp_path / "hs"), [source])
    result = run_stage(stage.STAGE, tmp_path / "run", corpus=CorpusConfig(path=str(tmp_path / "hs")))
    assert (result.rows_out, result.quarantined) == (manifest["pairs"], 0)
    assert result.output.conversational
    assert result.metrics["conflict"] == pytest.approx(manifest["conflict"])
