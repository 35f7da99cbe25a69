"""The stage's contract where no training is needed: ready models, names, fingerprint, errors."""

import json
from pathlib import Path

import pytest

from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.proxies import stage
from pdray.scoring import stage as scoring
from tests.proxies.cases import ASPECTS, context, write_corpus
from tests.tiny import tiny_bert


def test_ready_models_skip_training(tmp_path: Path) -> None:
    models = {aspect: str(tiny_bert(tmp_path / str(index))) for index, aspect in enumerate([*ASPECTS, "other"])}
    result = stage.run(context(tmp_path, write_corpus(tmp_path / "corpus"), {"models": models}))
    assert result.metrics["trained"] is False
    assert list(result.metrics["aspects"]) == ASPECTS
    assert result.metrics["aspects"]["helpful"]["path"] == models["helpful"]
    assert result.metrics["aspects"]["helpful"]["length_penalty"] == 0.0
    assert result.metrics["aspects"]["helpful"]["held_out_accuracy"] is None
    assert result.notes == ["no pair has the aspect other; its model is not used"]


def test_an_aspect_without_ready_model_is_named(tmp_path: Path) -> None:
    models = {aspect: str(tiny_bert(tmp_path / "model")) for aspect in ASPECTS}
    ctx = context(tmp_path, write_corpus(tmp_path / "corpus"), {"models": models}, [*ASPECTS, "honest"])
    with pytest.raises(UserError, match="no model for honest"):
        stage.run(ctx)


def test_slugs_are_safe_and_unique() -> None:
    names = ["helpful", "Helpful", "../etc", "help ful", "help/ful", "", ".", "ü", "work", "a" * 300]
    slugs = [stage.slug(name) for name in names]
    assert slugs[0] == "helpful"
    assert len({slug.lower() for slug in slugs}) == len(names)
    assert all(slug == Path(slug).name and len(slug) < 100 and not slug.startswith(".") for slug in slugs)
    assert stage.SCRATCH not in slugs


def test_settings_follow_the_result_and_not_the_machine(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model")
    write_corpus(tmp_path / "corpus")

    def settings(**changes: object) -> str:
        proxies = {"base_model": str(tmp_path / "model"), **changes}
        config = RunConfig.model_validate({"corpus": {"path": "x"}, "proxies": proxies})
        return json.dumps(stage.settings(config))

    before = settings()
    assert settings(cpus_per_worker=2) == before
    assert settings(length_penalty=0.5) != before
    (tmp_path / "model" / "config.json").touch()
    assert settings() != before


def test_more_tokens_than_the_model_reads(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model", max_positions=128)
    ctx = context(tmp_path, write_corpus(tmp_path / "corpus"), {"base_model": str(tmp_path / "model")})
    with pytest.raises(UserError, match=r"^proxies.max_tokens is 512, but .* reads at most 128"):
        stage.check(ctx.config, {})
    with pytest.raises(UserError, match=r"^scores.max_tokens is 512, but .* reads at most 128"):
        scoring.check(ctx.config, {})
