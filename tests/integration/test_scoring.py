"""The scores stage on real Ray: both engines, models of one and of several labels, features, faults."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ray import cloudpickle

from pdray.engines import pool
from pdray.engines.encode import ModelEncoder
from pdray.errors import UserError
from pdray.schema import RewardModel, features_schema, scores_schema
from pdray.scoring.features import read_head
from pdray.shards import ShardedFolder
from pdray.stages import Upstream
from pdray.storage import StoragePath
from tests.engines import doubles
from tests.engines.doubles import (
    BrokenEngine,
    CountingEngine,
)
from tests.scoring.cases import (
    ASPECTS,
    RULE,
    SHARDS,
    TEXTS,
    as_messages,
    one_each,
    plain_rewards,
    proxies_of,
    rewards_of,
    score,
    upstream_of,
    write_corpus,
)
from tests.stages import join
from tests.tiny import tiny_bert, tiny_llama_reward

pytestmark = pytest.mark.usefixtures("ray_local")
cloudpickle.register_pickle_by_value(doubles)  # the workers do not see the tests


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder, a decoder and a decoder that pads with its EOS token."""
    root = tmp_path_factory.mktemp("models")
    return {
        "clarity": tiny_bert(root / "bert"),
        "honesty": tiny_llama_reward(root / "llama", seed=1),
        "tone": tiny_llama_reward(root / "eos", seed=2, pad_is_eos=True),
    }


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_every_text_gets_a_reward_for_every_aspect(tmp_path: Path, models: dict[str, Path], engine: str) -> None:
    upstream = upstream_of(tmp_path, *one_each(models))
    result, shards = score(tmp_path, upstream, engine=engine, cpu_cache_gib=0.1)
    for aspect, folder in models.items():
        np.testing.assert_allclose(rewards_of(shards, aspect), plain_rewards(folder, TEXTS)[:, 0], atol=1e-4)
    tables = [shards.read("texts", shard) for shard in range(3)]
    assert [len(table) for table in tables] == [50, 0, 70]
    assert all(table.schema.remove_metadata() == scores_schema(ASPECTS) for table in tables)
    assert pa.concat_tables(tables)["num_tokens"].to_pylist() == [len(response.split()) for _, response in TEXTS]
    metrics = result.metrics
    truncated = sum(sum(table["truncated"].to_pylist()) for table in tables)
    assert (metrics["engine"], metrics["texts"], metrics["computed"], metrics["reused"]) == (engine, 120, 120, 0)
    assert (metrics["truncated"], metrics["non_finite"], metrics["failed"]) == (truncated, 0, 0)
    assert 0 < truncated < 120
    assert 0 <= metrics["max_parity_error"] < 1e-4
    assert metrics["pairs_per_second"] == pytest.approx(metrics["texts_per_second"] * 118 / 120, rel=0.01)
    assert metrics["tokens_per_second"] > metrics["texts_per_second"]
    assert any(f"{truncated} texts were cut to scores.max_tokens = 48" in note for note in result.notes)
    parity = (shards.folder / "parity.parquet").read_table()
    assert len(parity) == 6 * 3
    assert set(parity["output"].to_pylist()) == set(ASPECTS)


def test_one_model_for_all_aspects_gives_the_rewards_of_one_model_each(tmp_path: Path, bert: RewardModel) -> None:
    from transformers import AutoModelForSequenceClassification

    whole = AutoModelForSequenceClassification.from_pretrained(bert.path)
    folders = {}
    for label, aspect in enumerate(ASPECTS):
        single = AutoModelForSequenceClassification.from_pretrained(
            bert.path, num_labels=1, ignore_mismatched_sizes=True
        )
        single.load_state_dict(
            {
                name: value[label : label + 1] if name.startswith("classifier") else value
                for name, value in whole.state_dict().items()
            }
        )
        folders[aspect] = tmp_path / aspect
        shutil.copytree(bert.path, folders[aspect])
        single.save_pretrained(folders[aspect])
    corpus = write_corpus(tmp_path, SHARDS)
    _, together = score(tmp_path, join(corpus, proxies_of(tmp_path, bert)), name="together")
    _, apart = score(tmp_path, join(corpus, proxies_of(tmp_path, *one_each(folders))), name="apart")
    for aspect in ASPECTS:
        assert np.ptp(rewards_of(together, aspect)) > 0.5
        np.testing.assert_allclose(rewards_of(together, aspect), rewards_of(apart, aspect), atol=1e-5)


def features_of(bert: RewardModel, root: Path, covered: list[list[int]]) -> Upstream:
    """The proxies stage with features of some rows of each shard, from a plain loop."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bert.path).eval()
    encoder = ModelEncoder([Path(bert.path)], RULE)
    width = model.config.hidden_size
    upstream = proxies_of(root, bert, features=width, num_shards=len(covered))
    sharded = ShardedFolder(upstream.folders["proxies"], "test", len(covered))
    for shard, rows in enumerate(covered):
        texts = [SHARDS[shard][row] for row in rows]
        encoded = encoder.encode(
            pa.table(
                {
                    "prompt": pa.array([t[0] for t in texts], pa.string()),
                    "response": pa.array([t[1] for t in texts], pa.string()),
                }
            )
        )
        with torch.no_grad():
            outputs = [model.bert(torch.tensor([ids])) for ids in encoded.ids[0]]
        read = [one.last_hidden_state[0, 0] if bert.dense else one.pooler_output[0] for one in outputs]
        values = [one.numpy() for one in read]
        flat = pa.array(np.array(values, np.float32).ravel(), pa.float32())
        columns = [
            pa.array(rows, pa.int32()),
            pa.FixedSizeListArray.from_arrays(flat, width),
            pa.array(encoded.facts.num_tokens),
            pa.array(encoded.facts.truncated),
        ]
        sharded.write(shard, {"features": pa.table(columns, schema=features_schema(width))}, 0, {"failed": []})
    return upstream


@pytest.mark.parametrize(
    ("covered", "dense"),
    [
        pytest.param([list(range(0, 50, 2)), [], [3, 69]], None, id="some texts"),
        pytest.param([list(range(50)), [], list(range(70))], None, id="every text"),
        pytest.param([list(range(0, 50, 2)), [], [3, 69]], "bert.pooler.dense", id="some, by a dense layer"),
    ],
)
@pytest.mark.slow
def test_rewards_from_features_are_those_of_the_engine(
    tmp_path: Path, bert: RewardModel, covered: list[list[int]], dense: str | None
) -> None:
    bert = replace(bert, dense=dense)
    corpus = write_corpus(tmp_path, SHARDS)
    _, plain = score(tmp_path, join(corpus, proxies_of(tmp_path, bert)), name="plain")
    reusing = join(corpus, features_of(bert, tmp_path, covered))
    result, shards = score(tmp_path, reusing, load=CountingEngine, name="reused")
    reused = sum(map(len, covered))
    assert (result.metrics["computed"], result.metrics["reused"]) == (120 - reused, reused)
    log = Path(bert.path).parent / "counted"
    counted = sum(map(int, log.read_text().split())) if log.exists() else 0
    assert counted == (120 - reused + 6 if reused < 120 else 0)
    for aspect in ASPECTS:
        np.testing.assert_allclose(rewards_of(shards, aspect), rewards_of(plain, aspect), atol=1e-5)
    for shard in range(3):
        one, other = (folder.read("texts", shard) for folder in (plain, shards))
        assert one.select(["num_tokens", "truncated"]) == other.select(["num_tokens", "truncated"])
    assert result.metrics["max_parity_error_features"] < 1e-5


def test_features_of_another_model_are_refused(tmp_path: Path, bert: RewardModel) -> None:
    upstream = join(write_corpus(tmp_path, SHARDS), features_of(bert, tmp_path, [list(range(50)), [], [3]]))
    other = tiny_bert(tmp_path / "other", num_labels=3, seed=9)
    shutil.copytree(other, bert.path, dirs_exist_ok=True)
    with pytest.raises(UserError, match="disagree: text"):
        score(tmp_path, upstream)
    assert read_head(StoragePath(bert.path), "classifier").weight.shape == (3, 64)


def test_the_stage_goes_on_with_the_shards_that_are_missing(tmp_path: Path, bert: RewardModel) -> None:
    """A text goes through the model once, and the texts of the comparison once more."""
    upstream, counts = upstream_of(tmp_path, bert), Path(bert.path).parent / "counted"
    first, shards = score(tmp_path, upstream, load=CountingEngine)
    assert sum(map(int, counts.read_text().split())) == len(TEXTS) + 6
    counts.unlink()
    shards.marker_path(2).delete()
    kept = shards.table("texts", 0).info().mtime_ns
    again, _ = score(tmp_path, upstream, load=CountingEngine)
    assert sum(map(int, counts.read_text().split())) == 70 + 6
    assert shards.table("texts", 0).info().mtime_ns == kept
    assert again.metrics["shards_digest"] == first.metrics["shards_digest"]
    third, _ = score(tmp_path, upstream, load=BrokenEngine)
    assert third.metrics["max_parity_error"] == pytest.approx(first.metrics["max_parity_error"], abs=1e-6)
    assert third.metrics["texts_per_second"] == 0


def test_messages_without_a_chat_template_are_refused_in_the_users_words(tmp_path: Path, bert: RewardModel) -> None:
    corpus = write_corpus(tmp_path, [as_messages(TEXTS[:12])], conversational=True)
    with pytest.raises(UserError, match=r"^the corpus holds messages but the tokenizer of"):
        score(tmp_path, join(corpus, proxies_of(tmp_path, bert)))


def test_words_that_the_tokenizer_does_not_know_are_refused(tmp_path: Path, bert: RewardModel) -> None:
    texts = [("what is right", f"{'ж' * (1 + index)} щ ъ") for index in range(9)]
    with pytest.raises(UserError, match=r"does not know .*above scores.max_unknown_tokens"):
        score(tmp_path, upstream_of(tmp_path, bert, shards=[texts]), max_unknown_tokens=0.1)


def test_ray_data_finds_that_the_pool_can_grow(
    tmp_path: Path, bert: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where a pool cannot reach its threshold for more actors, as that of a cluster that nodes may join."""
    monkeypatch.setattr(pool, "may_grow", lambda: True)
    said: list[str] = []
    listening = logging.Handler(logging.WARNING)
    listening.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ray.data._internal.actor_autoscaler.default_actor_autoscaler")
    logger.addHandler(listening)
    try:
        score(tmp_path, upstream_of(tmp_path, bert, shards=[TEXTS[:20], TEXTS[20:40], TEXTS[40:60]]))
    finally:
        logger.removeHandler(listening)
    assert said == []
