"""Heads on a frozen backbone: features, pass-through poolers, κ labels in one model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pdray.errors import UserError
from pdray.proxies.backbone import write_heads, write_identity
from pdray.proxies.base import load_reward_model, load_tokenizer
from pdray.proxies.forms import EPSILON
from pdray.proxies.heads import final_linear, logits, pass_through, set_head
from pdray.rewards import RewardHead
from pdray.scoring.features import read_head
from pdray.storage import StoragePath
from tests.tiny import tiny_bert, tiny_encoder, tiny_llama_lm, tiny_roberta

TEXTS = [[2, 20, 21, 3], [2, 30, 3], [2, 40, 41, 42, 43, 44, 3], [2, 3]]
BASES = [
    (tiny_bert, None),
    (tiny_encoder, "bert.pooler.dense"),
    (tiny_roberta, "classifier.dense"),
    (tiny_llama_lm, None),
]


def load(folder: str) -> tuple[Any, int]:
    from transformers import AutoModelForSequenceClassification

    pad: int = load_tokenizer(folder).pad_token_id
    return AutoModelForSequenceClassification.from_pretrained(folder).eval(), pad


@pytest.mark.parametrize(("build", "dense"), BASES)
def test_logits_of_the_identity_head_are_what_the_trained_layers_read(
    tmp_path: Path, build: Callable[..., Any], dense: str | None
) -> None:
    base = build(tmp_path / "base")
    backbone = write_identity(str(base), 0, StoragePath(str(tmp_path / "identity")))
    assert backbone.dense == dense
    model, pad = load(str(tmp_path / "identity"))
    read: list[torch.Tensor] = []
    reader = model.get_submodule(dense) if dense else final_linear(model)[1]
    reader.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    features = logits(model, TEXTS[:1], pad)
    assert features.shape == (1, backbone.num_features)
    vector = (
        read[0][0, -1] if read[0].ndim == 3 and dense is None else read[0][0]
    )  # a decoder's layer reads every token
    np.testing.assert_allclose(features[0], vector.double().numpy(), atol=1e-5)


def random_head(size: int, outputs: int, dense: str | None) -> RewardHead:
    """A head whose tanh units leave their straight part."""
    draw = np.random.default_rng(0)
    weight, bias = draw.normal(size=(outputs, size)).astype(np.float32) / size**0.5, np.zeros(outputs, np.float32)
    if dense is None:
        return RewardHead(weight, bias)
    layer = draw.normal(size=(size, size)).astype(np.float32)
    return RewardHead(weight, bias, layer, draw.normal(size=size).astype(np.float32))


@pytest.mark.parametrize(("build", "dense"), BASES)
def test_the_saved_model_gives_the_rewards_that_the_features_give(
    tmp_path: Path, build: Callable[..., Any], dense: str | None
) -> None:
    base = str(build(tmp_path / "base"))
    backbone = write_identity(base, 0, StoragePath(str(tmp_path / "identity")))
    head, aspects = random_head(backbone.num_features, 3, dense), ["helpful", "honest", "kind"]
    folder = StoragePath(str(tmp_path / "all"))
    write_heads(base, 0, head, aspects, folder)
    model, pad = load(str(tmp_path / "all"))
    together = logits(model, TEXTS, pad)
    assert [model.config.id2label[index] for index in range(3)] == aspects
    assert np.ptp(together, axis=0).min() > 1e-3  # else any two would be equal
    features = logits(load(str(tmp_path / "identity"))[0], TEXTS, pad).astype(np.float32)
    np.testing.assert_allclose(together, head.rewards(features), atol=1e-4)
    read = read_head(folder, backbone.head, backbone.dense)
    np.testing.assert_array_equal(read.rewards(features), head.rewards(features))


@pytest.mark.parametrize("build", [tiny_encoder, tiny_roberta])
def test_a_pooler_that_never_classified_is_passed_through(tmp_path: Path, build: Callable[..., Any]) -> None:
    model, pad = model_of(build(tmp_path))
    hidden = backbone_of(model)(input_ids=torch.tensor(TEXTS[:1])).last_hidden_state[0, 0].detach().numpy()
    assert pass_through(model)
    set_head(model, np.eye(len(hidden)) / EPSILON, [str(index) for index in range(len(hidden))])
    features = logits(model, TEXTS[:1], pad)[0]
    # tanh(εx)/ε differs from x by x³ε²/3
    np.testing.assert_allclose(features, hidden, atol=1e-6 + np.abs(hidden).max() ** 3 * EPSILON**2 / 3)


def test_pass_through_is_exact_for_values_of_a_normalised_layer() -> None:
    values = torch.linspace(-1.4, 1.4, 57, dtype=torch.float32)
    assert (torch.tanh(values * EPSILON) / EPSILON - values).abs().max() < 1e-6


def test_the_head_of_a_classifier_keeps_what_it_was_trained_with(tmp_path: Path) -> None:
    base = tiny_bert(tmp_path / "base")
    write_identity(str(base), 0, StoragePath(str(tmp_path / "identity")))
    original, kept = load(str(base))[0].bert.pooler.dense.weight, load(str(tmp_path / "identity"))[0].bert.pooler.dense
    assert kept.weight.equal(original)


def test_an_activation_that_is_no_tanh_keeps_its_weights(tmp_path: Path) -> None:
    model, _ = model_of(tiny_encoder(tmp_path))
    model.bert.pooler.activation = torch.nn.GELU()
    before = model.bert.pooler.dense.weight.clone()
    assert pass_through(model) is None
    assert model.bert.pooler.dense.weight.equal(before)


def test_a_decoder_has_nothing_in_between(tmp_path: Path) -> None:
    assert pass_through(model_of(tiny_llama_lm(tmp_path))[0]) is None


def test_a_classifier_without_a_final_linear_layer_is_refused(tmp_path: Path) -> None:
    model, _ = model_of(tiny_encoder(tmp_path))
    model.classifier = torch.nn.Identity()
    with pytest.raises(UserError, match=r"does not end in one linear layer; set proxies\.train to 'all'"):
        final_linear(model)


def test_batches_do_not_change_rewards(tmp_path: Path) -> None:
    model, pad = model_of(tiny_llama_lm(tmp_path))
    np.testing.assert_allclose(logits(model, TEXTS, pad, 1), logits(model, TEXTS, pad, 4), atol=1e-5)


def model_of(folder: Path) -> tuple[Any, int]:
    tokenizer = load_tokenizer(str(folder))
    return load_reward_model(str(folder), tokenizer, seed=0).eval(), tokenizer.pad_token_id


def backbone_of(model: Any) -> Any:
    return getattr(model, model.base_model_prefix)
