"""What is checked of the proxies before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pdray.errors import UserError
from pdray.models.positions import max_positions
from pdray.scoring.proxies import find_proxies, tokenizer_identity
from tests.tiny import tiny_bert, tiny_llama_reward


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": tiny_bert(root / "bert", max_positions=128),
        "other bert": tiny_bert(root / "other", seed=1, max_positions=96),
        "llama": tiny_llama_reward(root / "llama", max_positions=256),
        "two labels": tiny_bert(root / "two", num_labels=2),
    }


def manifest(**paths: Path) -> dict[str, dict[str, Any]]:
    return {aspect: {"path": str(path), "held_out_accuracy": 0.5} for aspect, path in paths.items()}


def test_aspects_are_sorted_and_equal_tokenizers_are_one(models: dict[str, Path]) -> None:
    found = find_proxies(manifest(tone=models["bert"], clarity=models["llama"], honesty=models["other bert"]), 64)
    assert found.aspects == ["clarity", "honesty", "tone"]
    assert [proxy.tokenizer for proxy in found.proxies] == [0, 1, 1]
    assert found.tokenizers == (str(models["llama"]), str(models["other bert"]))


def test_a_changed_vocabulary_is_another_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["bert"], tmp_path / "changed")
    file = tmp_path / "changed" / "tokenizer.json"
    assert tokenizer_identity(str(tmp_path / "changed")) == tokenizer_identity(str(models["bert"]))
    file.write_text(file.read_text().replace('"helpful"', '"hopeful"'))
    assert tokenizer_identity(str(tmp_path / "changed")) != tokenizer_identity(str(models["bert"]))


def test_max_tokens_above_the_positions_of_one_proxy(models: dict[str, Path]) -> None:
    pair = manifest(a=models["bert"], b=models["other bert"])
    assert find_proxies(pair, 96)
    with pytest.raises(UserError, match=r"max_tokens is 97, but .*other reads at most 96 tokens; set .* to 96"):
        find_proxies(pair, 97)


def test_a_model_with_two_labels_is_no_reward_model(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"the proxy for b at .* has 2 labels, but a reward model has one"):
        find_proxies(manifest(a=models["bert"], b=models["two labels"]), 32)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "llama", "max_position_embeddings": 2048}, 2048),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"model_type": "t5"}, None),
    ],
)
def test_positions_of_a_model(config: dict[str, Any], positions: int | None) -> None:
    assert max_positions(json.loads(json.dumps(config))) == positions
