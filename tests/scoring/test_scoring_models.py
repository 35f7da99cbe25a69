"""What is checked of the reward models before anything is loaded, and the rewards that need no engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.engines.encode import TextFacts, tokenizer_identity
from pdray.errors import UserError
from pdray.rewards import RewardHead
from pdray.schema import ProxiesOutput, RewardModel, features_schema, scores_schema
from pdray.scoring.features import KnownRewards, WithFeatures, WithoutFeatures, read_head
from pdray.scoring.models import find_models, model_folder
from pdray.scoring.writer import RewardWriter
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from tests.tiny import tiny_bert, tiny_llama_reward

RUN = StoragePath("/run")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": tiny_bert(root / "bert", max_positions=128),
        "llama": tiny_llama_reward(root / "llama", max_positions=256),
        "three labels": tiny_bert(root / "three", num_labels=3, max_positions=96),
    }


def output(*models: RewardModel) -> ProxiesOutput:
    return ProxiesOutput(list(models), {})


def test_every_aspect_finds_its_output(models: dict[str, Path]) -> None:
    three = RewardModel(str(models["three labels"]), ["tone", None, "clarity"])
    found = find_models(output(RewardModel(str(models["bert"]), ["honesty"]), three), RUN, 64)
    assert found.aspects == ["clarity", "honesty", "tone"]
    assert found.columns == [3, 0, 1]
    assert found.labels == ["honesty", "tone", "label 2, which no pair needs", "clarity"]


def test_models_of_the_run_are_below_its_folder() -> None:
    assert model_folder("proxies-1/model", RUN).uri == "/run/proxies-1/model"
    assert model_folder("/models/mine", RUN).uri == "/models/mine"
    assert model_folder("s3://bucket/mine", RUN).uri == "s3://bucket/mine"


def test_max_tokens_above_the_positions_of_one_model(models: dict[str, Path]) -> None:
    pair = output(RewardModel(str(models["bert"]), ["a"]), RewardModel(str(models["three labels"]), ["b", "c", "d"]))
    assert find_models(pair, RUN, 96)
    with pytest.raises(UserError, match=r"max_tokens is 97, but .*three reads at most 96 tokens; set .* to 96"):
        find_models(pair, RUN, 97)


def test_a_model_with_other_labels_than_it_was_handed_over_with(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"three has 3 labels, but 2 were expected \(b, c\)"):
        find_models(output(RewardModel(str(models["three labels"]), ["b", "c"])), RUN, 32)


def test_a_changed_vocabulary_is_another_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(models["bert"], tmp_path / "changed")
    file = tmp_path / "changed" / "tokenizer.json"
    assert tokenizer_identity(tmp_path / "changed") == tokenizer_identity(models["bert"])
    file.write_text(file.read_text().replace('"helpful"', '"hopeful"'))
    assert tokenizer_identity(tmp_path / "changed") != tokenizer_identity(models["bert"])


@pytest.mark.parametrize(
    ("name", "layer", "has_bias"), [("three labels", "classifier", True), ("llama", "score", False)]
)
def test_the_head_is_the_last_layer_of_the_folder(
    models: dict[str, Path], name: str, layer: str, has_bias: bool
) -> None:
    from transformers import AutoModelForSequenceClassification

    model = getattr(AutoModelForSequenceClassification.from_pretrained(models[name]), layer)
    head = read_head(StoragePath(str(models[name])), layer)
    np.testing.assert_array_equal(head.weight, model.weight.detach().numpy())
    bias = np.zeros(1) if model.bias is None else model.bias.detach().numpy()
    np.testing.assert_array_equal(head.bias, bias)


@pytest.fixture
def known(tmp_path: Path) -> KnownRewards:
    """Features of rows 1, 3 and 4 of a shard of five."""
    features = ShardedFolder(StoragePath(str(tmp_path / "proxies")), "proxies", 1)
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    values[2] = np.nan
    columns = {
        "row": pa.array([1, 3, 4], pa.int32()),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2),
        "num_tokens": pa.array([11, 13, 14], pa.int32()),
        "truncated": pa.array([False, True, False]),
    }
    table = pa.table(columns, schema=features_schema(2))
    features.write(0, {"features": table}, 0, {"failed": [[4, "a reason"]]})
    head = RewardHead(np.array([[1, 0], [0, 1], [1, 1]], np.float32), np.array([0, 0.5, 1], np.float32))
    return KnownRewards(features, head, 2)


def test_rows_with_and_without_features_are_every_row_once(known: KnownRewards) -> None:
    assert WithFeatures(known)(0, 5).tolist() == [1, 3, 4]
    assert WithoutFeatures(known)(0, 5).tolist() == [0, 2]
    assert (WithFeatures(known).number(0, 5), WithoutFeatures(known).number(0, 5)) == (3, 2)


def test_rewards_from_features_stand_between_those_of_the_engine(known: KnownRewards) -> None:
    outputs = np.array([[10, 11, 12], [20, 21, 22]], np.float32)
    facts = TextFacts(np.array([7, 8], np.int32), np.array([True, False]))
    tables, counts = RewardWriter(["clarity", "tone"], [2, 0], known)(0, np.array([0, 2]), outputs, facts)
    table = tables["texts"]
    assert table.schema == scores_schema(["clarity", "tone"])
    np.testing.assert_array_equal(table["reward.tone"], np.array([10, 0, 20, 2, np.nan], np.float32))
    np.testing.assert_array_equal(table["reward.clarity"], np.array([12, 2, 22, 6, np.nan], np.float32))
    assert table["num_tokens"].to_pylist() == [7, 11, 8, 13, 14]
    assert table["truncated"].to_pylist() == [True, False, False, True, False]
    assert counts == {"reused": 3, "truncated": 2, "non_finite": 2, "failed": [[4, "a reason"]]}


def test_outputs_that_no_pair_needs_are_neither_written_nor_counted() -> None:
    outputs = np.array([[1, np.nan], [np.inf, np.nan]], np.float32)
    facts = TextFacts(np.array([7, 8], np.int32), np.array([True, False]))
    tables, counts = RewardWriter(["tone"], [0])(0, np.array([0, 1]), outputs, facts)
    assert tables["texts"].column_names == ["reward.tone", "num_tokens", "truncated"]
    assert counts == {"reused": 0, "truncated": 1, "non_finite": 1, "failed": []}
