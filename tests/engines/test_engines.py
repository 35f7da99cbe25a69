"""Reward engines against a plain forward pass."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pdray.engines.engine import EngineOptions, TokenIds, load_engine
from pdray.engines.transformers_engine import TransformersEngine, length_batches
from pdray.engines.vllm_engine import load_llm, padding_id, without_padding
from pdray.errors import UserError
from tests.tiny import tiny_bert, tiny_llama_reward

OPTIONS = EngineOptions("transformers", "float32", 64)


@pytest.fixture(scope="module")
def texts() -> TokenIds:
    rng = random.Random(0)
    return [[2, *rng.choices(range(10, 100), k=rng.randint(1, 40)), 3] for _ in range(25)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    return {
        "bert": tiny_bert(root / "bert", num_labels=3),
        "llama": tiny_llama_reward(root / "llama"),
        "pad is eos": tiny_llama_reward(root / "eos", pad_is_eos=True),
    }


def plain(folder: Path, texts: TokenIds) -> np.ndarray:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.concatenate([model(torch.tensor([ids])).logits.numpy() for ids in texts])


@pytest.mark.parametrize("name", ["bert", "llama", "pad is eos"])
def test_batches_by_length_give_the_rewards_of_text_by_text(
    models: dict[str, Path], texts: TokenIds, name: str
) -> None:
    expected = plain(models[name], texts)
    assert np.ptp(expected) > 0.5
    rewards = TransformersEngine(str(models[name]), OPTIONS, batch_tokens=128).score(texts)
    assert rewards.dtype == np.float32
    assert rewards.shape == expected.shape
    np.testing.assert_allclose(rewards, expected, atol=1e-4)
    np.testing.assert_array_equal(TransformersEngine(str(models[name]), OPTIONS, batch_tokens=1).score(texts), expected)


def test_a_decoder_without_a_padding_token_is_scored_text_by_text(
    texts: TokenIds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig

    folder = tiny_llama_reward(tmp_path / "llama")
    config = AutoConfig.from_pretrained(folder)
    config.pad_token_id = None
    config.save_pretrained(folder)
    np.testing.assert_allclose(TransformersEngine(str(folder), OPTIONS).score(texts), plain(folder, texts), atol=1e-6)


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = [5, 100, 7, 7, 30, 1, 64]
    batches = list(length_batches(lengths, 64))
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64 for batch in batches)
    assert batches[:2] == [[1], [6]]
    assert len(batches) < 7
    assert list(length_batches([], 64)) == []


def test_padding_at_the_end_is_where_no_reward_is_read(models: dict[str, Path]) -> None:
    assert without_padding([5, 3, 6, 3, 3], 3) == [5, 3, 6]
    assert without_padding([3, 3], 3) == [3]
    assert without_padding([5, 6], None) == [5, 6]
    assert (padding_id(str(models["bert"])), padding_id(str(models["pad is eos"]))) == (0, 3)


def test_a_missing_vllm_is_said_and_not_replaced(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        UserError, match=r"engine is vllm, which cannot be imported.*pdray\[cpu\].*engine to transformers"
    ):
        load_engine(str(models["bert"]), EngineOptions("vllm", "float32", 64))


@pytest.mark.parametrize(
    ("gpus", "engine_args", "eager"), [(0.0, {}, True), (0.0, {"enforce_eager": False}, False), (1.0, {}, None)]
)
def test_vllm_compiles_nothing_on_a_cpu_unless_asked(monkeypatch, gpus, engine_args, eager):
    class FakeLLM:
        def __init__(self, **arguments: object) -> None:
            self.arguments = arguments

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM))
    options = EngineOptions("vllm", "float32", 16, num_gpus=gpus, engine_args=engine_args)
    assert load_llm("folder", options, {}).arguments.get("enforce_eager") is eager
