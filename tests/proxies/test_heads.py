"""A head on features gives the rewards of the whole model, for encoders and decoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pdray.errors import UserError
from pdray.proxies.base import load_reward_model, load_tokenizer
from pdray.proxies.heads import check_features, compute_features, restore_backbone, rewards, swap_backbone
from tests.tiny import tiny_bert, tiny_llama_lm

TEXTS = [[2, 20, 21, 3], [2, 30, 3], [2, 40, 41, 42, 43, 44, 3], [2, 3]]


def model_of(build: Callable[[Path], Any], folder: Path) -> tuple[Any, int]:
    build(folder)
    tokenizer = load_tokenizer(str(folder))
    return load_reward_model(str(folder), tokenizer, seed=0).eval(), tokenizer.pad_token_id


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama_lm])
def test_head_on_features_equals_the_whole_model(tmp_path: Path, build: Callable[[Path], Any]) -> None:
    model, pad = model_of(build, tmp_path)
    whole = rewards(model, TEXTS, pad)
    assert np.ptp(whole) > 0.01  # else any two would be equal
    backbone = swap_backbone(model, torch.as_tensor(compute_features(model, TEXTS, pad)))
    head_only = rewards(model, [[row] for row in range(len(TEXTS))], pad)
    np.testing.assert_allclose(head_only, whole, atol=1e-5)
    restore_backbone(model, backbone)
    np.testing.assert_array_equal(rewards(model, TEXTS, pad), whole)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (tiny_bert, {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}),
        (tiny_llama_lm, {"score.weight"}),
    ],
)
def test_only_the_head_is_left_to_train(tmp_path: Path, build: Callable[[Path], Any], names: set[str]) -> None:
    model, _ = model_of(build, tmp_path)
    swap_backbone(model, torch.zeros(1, 64))
    assert {name for name, _ in model.named_parameters()} == names


def test_batches_do_not_change_rewards(tmp_path: Path) -> None:
    model, pad = model_of(tiny_llama_lm, tmp_path)
    np.testing.assert_allclose(rewards(model, TEXTS, pad, 1), rewards(model, TEXTS, pad, 4), atol=1e-5)


def test_a_head_that_reads_other_tokens_is_refused(tmp_path: Path) -> None:
    model, pad = model_of(tiny_bert, tmp_path)
    check_features(model, TEXTS, pad)

    class MeanPooler(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden.mean(1)

    model.bert.pooler = MeanPooler()
    with pytest.raises(UserError, match=r"set proxies\.train to 'all'"):
        check_features(model, TEXTS, pad)
