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
from pdray.proxies.heads import EPSILON, final_linear, logits, pass_through, set_head
from pdray.storage import StoragePath
from tests.tiny import tiny_bert, tiny_encoder, tiny_llama_lm, tiny_roberta

TEXTS = [[2, 20, 21, 3], [2, 30, 3], [2, 40, 41, 42, 43, 44, 3], [2, 3]]
BASES = [tiny_bert, tiny_encoder, tiny_roberta, tiny_llama_lm]


def load(folder: str) -> tuple[Any, int]:
    from transformers import AutoModelForSequenceClassification

    pad: int = load_tokenizer(folder).pad_token_id
    return AutoModelForSequenceClassification.from_pretrained(folder).eval(), pad


@pytest.mark.parametrize("build", BASES)
def test_logits_of_the_identity_head_are_what_the_final_layer_reads(tmp_path: Path, build: Callable[..., Any]) -> None:
    base = build(tmp_path / "base")
    backbone = write_identity(str(base), 0, StoragePath(str(tmp_path / "identity")))
    model, pad = load(str(tmp_path / "identity"))
    read: list[torch.Tensor] = []
    final = final_linear(model)[1]
    final.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    features = logits(model, TEXTS[:1], pad)
    assert features.shape == (1, backbone.num_features)
    scale = final.weight[0, 0].item()
    assert scale in (1.0, 1 / EPSILON)
    vector = read[0][0, -1] if read[0].ndim == 3 else read[0][0]  # a decoder's layer reads every token
    assert backbone.scale == 1 / scale
    np.testing.assert_array_equal(features[0] * backbone.scale, vector.double().numpy())


@pytest.mark.parametrize("build", BASES)
def test_one_model_with_all_labels_gives_the_rewards_of_models_with_one(
    tmp_path: Path, build: Callable[..., Any]
) -> None:
    base = str(build(tmp_path / "base"))
    backbone = write_identity(base, 0, StoragePath(str(tmp_path / "identity")))
    size = backbone.num_features
    weights = np.random.default_rng(0).normal(size=(3, size)).astype(np.float32) / size / backbone.scale
    aspects = ["helpful", "honest", "kind"]
    write_heads(base, 0, weights, aspects, StoragePath(str(tmp_path / "all")))
    model, pad = load(str(tmp_path / "all"))
    together = logits(model, TEXTS, pad)
    assert [model.config.id2label[index] for index in range(3)] == aspects
    assert np.ptp(together, axis=0).min() > 1e-3  # else any two would be equal
    features = logits(load(str(tmp_path / "identity"))[0], TEXTS, pad) * backbone.scale
    np.testing.assert_allclose(together, features @ weights.T, atol=1e-5)
    for index, aspect in enumerate(aspects):
        folder = tmp_path / aspect
        write_heads(base, 0, weights[index : index + 1], [aspect], StoragePath(str(folder)))
        alone = logits(load(str(folder))[0], TEXTS, pad)
        assert alone.shape == (4, 1)
        np.testing.assert_allclose(together[:, index], alone[:, 0], atol=1e-5)


@pytest.mark.parametrize("build", [tiny_encoder, tiny_roberta])
def test_a_pooler_that_never_classified_is_passed_through(tmp_path: Path, build: Callable[..., Any]) -> None:
    model, pad = model_of(build(tmp_path))
    hidden = backbone_of(model)(input_ids=torch.tensor(TEXTS[:1])).last_hidden_state[0, 0].detach().numpy()
    set_head(model, np.eye(len(hidden)) / pass_through(model), [str(index) for index in range(len(hidden))])
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
    assert pass_through(model) == 1.0
    assert model.bert.pooler.dense.weight.equal(before)


def test_a_decoder_has_nothing_in_between(tmp_path: Path) -> None:
    assert pass_through(model_of(tiny_llama_lm(tmp_path))[0]) == 1.0


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
