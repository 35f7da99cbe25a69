"""The stage's contract where no Ray is needed: settings, checks, ready models, names, resumed folders."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdray.config import ProxiesConfig, RunConfig
from pdray.errors import UserError
from pdray.proxies import done, linear
from pdray.proxies.readings import Reading
from pdray.proxies.stage import STAGE
from pdray.schema import CorpusOutput, ProxiesOutput, RewardModel, to_json
from pdray.stages import Upstream
from pdray.storage import StoragePath
from tests.proxies.cases import ASPECTS, make_rows, sections, write_corpus
from tests.stages import context, run_stage
from tests.tiny import tiny_bert


def test_ready_models_skip_training(tmp_path: Path) -> None:
    models = {aspect: str(tiny_bert(tmp_path / str(index))) for index, aspect in enumerate([*ASPECTS, "other"])}
    result = run_stage(STAGE, tmp_path, upstream=write_corpus(tmp_path, make_rows(20)), **sections(models=models))
    assert result.metrics["trained"] is False
    assert result.output == ProxiesOutput(
        [RewardModel(models[aspect], [aspect]) for aspect in ASPECTS], dict.fromkeys(ASPECTS, 0.0)
    )
    assert result.notes == ["no pair has the aspect other; its model is not used"]


def test_a_ready_model_of_all_aspects_together(tmp_path: Path) -> None:
    models = {label: str(tiny_bert(tmp_path / str(index))) for index, label in enumerate([*ASPECTS, "unified"])}
    upstream = write_corpus(tmp_path, make_rows(20))
    settings = sections(models=models)
    result = run_stage(STAGE, tmp_path, upstream=upstream, **settings)
    assert [model.aspects for model in result.output.models] == [[aspect] for aspect in [*ASPECTS, "unified"]]
    assert STAGE.check is not None and upstream.corpus is not None
    STAGE.check(context(STAGE, tmp_path, **settings).config, upstream)
    named = replace(upstream, corpus=replace(upstream.corpus, aspects=["helpful", "unified"]))
    with pytest.raises(UserError, match=r"the corpus has an aspect named unified, .* or name the aspect otherwise"):
        STAGE.check(context(STAGE, tmp_path, **settings).config, named)
    with pytest.raises(ValueError, match="unified trains a reward model, but models brings ready ones"):
        ProxiesConfig(models=models, unified=True)
    with pytest.raises(ValueError, match="name a model for at least two"):
        ProxiesConfig(models={"helpful": "a", "unified": "b"})


def test_a_penalty_that_is_found_is_none_of_the_loss(tmp_path: Path) -> None:
    proxies = ProxiesConfig(base_model="x", length_penalty="auto")
    assert (proxies.training_penalty, ProxiesConfig(base_model="x", length_penalty=0.5).training_penalty) == (0.0, 0.5)
    residual = {"length_penalty": "auto", "length_penalty_form": "residual"}
    for name, setting in (("length_penalty", residual), ("balance_temperature", {"balance_temperature": "auto"})):
        with pytest.raises(ValueError, match=rf"{name} auto .*which only heads afford; set train to head"):
            ProxiesConfig.model_validate({"base_model": "x", **setting})
        heads = ProxiesConfig.model_validate({"base_model": "x", "train": "head", **setting})
        assert heads.training_penalty == (0.0 if "length_penalty" in setting else 0.001)
    assert ProxiesConfig(base_model="x", train="head", balance_temperature="auto").training_temperature is None
    assert ProxiesConfig(base_model="x", balance_temperature=0.5).training_temperature == 0.5
    for wrong in (-1, "automatic"):
        with pytest.raises(ValueError, match="length_penalty"):
            ProxiesConfig(base_model="x", length_penalty=wrong)


def test_one_ready_model_with_a_label_for_each_aspect(tmp_path: Path) -> None:
    path = str(tiny_bert(tmp_path / "model", num_labels=4))
    models = {"path": path, "labels": {"helpful": 0, "Kind Words": 3, "other": 1}}
    upstream = write_corpus(tmp_path, make_rows(20))
    result = run_stage(STAGE, tmp_path, upstream=upstream, **sections(models=models))
    assert isinstance(result.output, ProxiesOutput)
    assert result.output.models == [RewardModel(path, ["helpful", None, None, "Kind Words"])]
    assert result.metrics["aspects"]["helpful"] == {"path": path}
    assert STAGE.check is not None
    STAGE.check(context(STAGE, tmp_path, **sections(models=models)).config, upstream)
    models = {"path": path, "labels": {"helpful": 0, "Kind Words": 4}}
    with pytest.raises(UserError, match=r"^proxies.models.path is .* has 4 labels, .* asks for label 4"):
        STAGE.check(context(STAGE, tmp_path, **sections(models=models)).config, upstream)


def test_a_model_of_several_labels_for_one_aspect_is_refused(tmp_path: Path) -> None:
    models = {aspect: str(tiny_bert(tmp_path / "model", num_labels=4)) for aspect in ASPECTS}
    assert STAGE.check is not None
    with pytest.raises(UserError, match=r"^proxies.models.Kind Words is .* has 4 labels, but a reward is one number"):
        STAGE.check(context(STAGE, tmp_path, **sections(models=models)).config, Upstream())


def test_the_hand_over_survives_json() -> None:
    output = ProxiesOutput([RewardModel("proxies-1/model", ["a", None], "score")], {"a": 0.5}, 64, 3)
    assert STAGE.load(json.loads(json.dumps(to_json(output)))) == output


def test_an_aspect_without_ready_model_is_named_once_the_corpus_is_known(tmp_path: Path) -> None:
    models = {aspect: str(tiny_bert(tmp_path / "model")) for aspect in ASPECTS}
    ctx = context(STAGE, tmp_path, **sections(models=models))
    assert STAGE.check is not None
    STAGE.check(ctx.config, Upstream())
    counts = dict.fromkeys([*ASPECTS, "honest"], 1)
    with pytest.raises(UserError, match="no model for honest"):
        STAGE.check(ctx.config, Upstream(corpus=CorpusOutput(1, 3, 6, sorted(counts), counts, False)))


def test_slugs_are_safe_and_unique() -> None:
    names = ["helpful", "Helpful", "../etc", "help ful", "help/ful", "", ".", "ü", "work", "trained", "a" * 300]
    slugs = [done.slug(name) for name in names]
    assert slugs[0] == "helpful"
    assert len({slug.lower() for slug in slugs}) == len(names)
    assert all(slug == Path(slug).name and len(slug) < 100 and not slug.startswith(".") for slug in slugs)
    assert not {done.SCRATCH, done.DONE} & set(slugs)


def test_settings_follow_the_result_and_not_the_machine(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model")

    def settings(scores: dict[str, Any] | None = None, **changes: object) -> str:
        proxies = {"base_model": str(tmp_path / "model"), **changes}
        config = RunConfig.model_validate({"corpus": {"path": "x"}, "proxies": proxies, "scores": scores or {}})
        return json.dumps(STAGE.settings(config))

    before = settings()
    assert settings(cpus_per_worker=2) == before
    assert settings(gpus_per_worker=1) == before
    assert settings(save_steps=7, max_failures=3) == before
    for change in ({"length_penalty": 0.5}, {"kind": "separate"}, {"max_held_out_pairs": 5}, {"dtype": "bfloat16"}):
        assert settings(**change) != before
    assert settings({"max_tokens": 64}) != before
    assert settings({"prompt_tokens": 64}) != before
    assert settings({"engine": "transformers"}) == before  # it trains; only features come from the engine
    assert settings({"engine": "transformers"}, train="head") != settings(train="head")
    assert settings({"gpus_per_actor": 1}, train="head") != settings(train="head")  # auto is bfloat16 there
    assert settings({"num_actors": 1}, train="head") == settings(train="head")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert settings() != before


def test_more_tokens_than_the_model_reads(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "model", max_positions=128)
    config = RunConfig.model_validate({"corpus": {"path": "x"}, "proxies": {"base_model": str(tmp_path / "model")}})
    assert STAGE.check is not None
    with pytest.raises(UserError, match=r"^scores.max_tokens is 512, but .* reads at most 128"):
        STAGE.check(config, Upstream())


def test_a_trained_proxy_counts_only_while_its_files_are_whole(tmp_path: Path) -> None:
    folder = StoragePath(str(tmp_path))
    name = done.slug("Kind Words")
    (folder / name / "model.safetensors").write_bytes(b"12345")
    assert not done.is_done(folder, name)
    done.write_done(folder, name, {"steps": 3}, pa.table({"Kind Words": [0.5]}))
    assert done.read_done(folder, name) == {"steps": 3}
    assert done.read_margins(folder, name).to_pydict() == {"Kind Words": [0.5]}
    os.truncate(tmp_path / name / "model.safetensors", 3)
    assert not done.is_done(folder, name)


def test_pairs_with_unread_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    job, table = head_job(tmp_path, unread=(0, 3))
    facts = linear.fit_aspect(job).facts
    assert facts["unread_pairs"] == 2
    assert facts["train_pairs"] == len(table) - 2
    assert facts["converged"]
    with pytest.raises(UserError, match="'helpful' has 0 pairs left of 40 whose texts have finite features"):
        linear.fit_aspect(head_job(tmp_path / "none", unread=tuple(range(40)))[0])


def test_figures_are_of_a_head_that_has_not_seen_the_held_out_pairs(tmp_path: Path) -> None:
    job, pairs = head_job(tmp_path, unread=())
    fewer = replace(job, pairs=replace(job.pairs, train=pairs.slice(0, 20)))
    other = replace(fewer, pairs=replace(fewer.pairs, held_out=pairs.slice(30, 10)))
    one, two = linear.fit_aspect(fewer), linear.fit_aspect(other)
    np.testing.assert_array_equal(one.measured.weight, two.measured.weight)
    assert np.abs(one.head.weight - two.head.weight).max() > 1e-3  # the final heads have


FOUR = Reading("together", (4,), tanh=False)


def head_job(root: Path, unread: tuple[int, ...]) -> tuple[linear.HeadJob, pa.Table]:
    """Forty pairs of forty prompts in one shard, with four features each; held-out pairs are the same."""
    from pdray.config import ProxiesConfig
    from pdray.proxies.pairs import AspectPairs
    from pdray.schema import features_schema
    from pdray.shards import ShardedFolder

    draw = np.random.default_rng(0)
    features = draw.normal(size=(80, 4)).astype(np.float32)
    features[::2] += 0.5
    features[[2 * row for row in unread]] = np.nan
    columns = [np.arange(80), features.tolist(), draw.integers(1, 9, 80), np.zeros(80, bool)]
    schema = features_schema(4)
    table = pa.table([pa.array(one, kind.type) for one, kind in zip(columns, schema, strict=True)], schema=schema)
    shards = ShardedFolder(StoragePath(str(root)), "test", 1)
    shards.write(0, {"features": table}, 0, {})
    pairs = pa.table(
        {
            "shard": pa.array([0] * 40, pa.int32()),
            "chosen_row": pa.array(range(0, 80, 2), pa.int32()),
            "rejected_row": pa.array(range(1, 80, 2), pa.int32()),
            "prompt_hash": pa.array(range(40), pa.uint64()),
        }
    )
    aspect = AspectPairs("helpful", 40, pairs, pairs.slice(20, 5))
    return linear.HeadJob(aspect, shards, FOUR, ProxiesConfig(base_model="x"), 0.5, 1, 0, aspect.held_out), pairs
