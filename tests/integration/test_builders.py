"""What ``pdray data`` builds is what the corpus stage reads."""

from __future__ import annotations

import pytest

from pdray.builders.build import build
from pdray.config import CorpusConfig
from pdray.corpus import stage
from tests.builders.published import helpsteer3, ultrafeedback, write_lines
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")


def test_the_corpus_finds_the_share_of_conflicts_that_was_asked_for(tmp_path):
    source = write_lines(tmp_path / "uf.jsonl", ultrafeedback(1200))
    manifest = build("ultrafeedback", str(tmp_path / "uf"), [source], conflict=0.2)
    result = run_stage(stage.STAGE, tmp_path / "run", corpus=CorpusConfig(path=str(tmp_path / "uf")))
    assert (result.rows_in, result.rows_out, result.quarantined) == (manifest["pairs"], manifest["pairs"], 0)
    assert result.metrics["conflict"] == pytest.approx(manifest["conflict"], abs=1e-12)
    assert abs(result.metrics["conflict"] - 0.2) <= 0.005
    assert result.metrics["aspect_rows"] == {name: one["pairs"] for name, one in manifest["aspects"].items()}


def test_conversations_are_read(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    rows = [helpsteer3([*turns, {"role": "user", "content": f"q{i}"}], "one", "two", 1) for i in range(6)]
    build("helpsteer3", str(tmp_path / "a"), [write_lines(tmp_path / "a.jsonl", rows)])
    config = CorpusConfig(path=str(tmp_path / "a"))
    with pytest.raises(ValueError, match="has 1 aspect"):
        run_stage(stage.STAGE, tmp_path / "run", corpus=config)
