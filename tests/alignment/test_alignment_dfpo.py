"""DFPO: what a pair brings, and loss and gradient of the trainer beside a float64 reference written by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pdray.alignment.dfpo import REFERENCE_LOSS, dfpo_terms
from tests import tiny

BETA = 0.3
# Prompts and responses of different lengths, so that a batch is padded on both sides of the border.
TOKENS = [([5, 6, 7], [8, 9, 3], [10, 3]), ([11], [12, 13, 14, 15, 3], [3]), ([16, 17], [18, 3], [19, 20, 21, 3])]
REFERENCE = [(-9.0, -6.5), (-20.0, -4.0), (-5.0, -14.0)]
KAPPA = [4.0, 4.0, 2.5]
DIVERGENCE = [-2.75, 0.0, 1.3]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama_lm(tmp_path_factory.mktemp("policy"))


def test_kappa_and_divergence_are_the_papers_where_aspects_count_alike() -> None:
    kappa, divergence = dfpo_terms(["a", "c"], np.array([-1.5, 0.25]), {"a": 1.0, "b": 1.0, "c": 1.0})
    assert (kappa.tolist(), divergence.tolist()) == ([3.0, 3.0], [-1.5, 0.25])
    assert kappa.dtype == divergence.dtype == np.float32


def test_weights_keep_the_likelihood_of_a_label() -> None:
    """With w_a Δr_a + w_b Δr_b = (w_a + w_b) M, κM + Δφ is the margin of the pair's own aspect whatever the weights."""
    weights, margins = {"a": 2.0, "b": 0.5, "c": 0.0}, {"a": 0.75, "b": -1.5, "c": 9.0}
    policy_margin = sum(weights[one] * margins[one] for one in weights) / sum(weights.values())
    divergence = np.array([-0.5 * -1.5, -2.0 * 0.75, -2.0 * 0.75 - 0.5 * -1.5])
    kappa, shift = dfpo_terms(["a", "b", "c"], divergence, weights)
    np.testing.assert_allclose(kappa[:2] * policy_margin + shift[:2], [margins["a"], margins["b"]], rtol=1e-6)
    assert np.isnan([kappa[2], shift[2]]).all()


def trainer(kind: str, policy: Path, folder: Path, **columns: list[float]) -> Any:
    """A trainer of ours in this process, without DeepSpeed; its batches come as in a training."""
    from datasets import Dataset
    from trl import DPOConfig

    from pdray.alignment.inputs import policy_tokenizer
    from pdray.alignment.trainer import TRAINERS

    args = DPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=True,
        remove_unused_columns=False,
        per_device_train_batch_size=len(TOKENS),
        per_device_eval_batch_size=len(TOKENS),
        gradient_checkpointing=False,
        report_to=[],
        model_init_kwargs={"dtype": "float32"},
    )
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    pairs = {name: list(values) for name, values in zip(names, zip(*TOKENS, strict=True), strict=True)}
    for place, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        pairs[name] = [logps[place] for logps in REFERENCE]
    data, tokenizer = Dataset.from_dict({**pairs, **columns}), policy_tokenizer(str(policy))
    return TRAINERS[kind](
        model=str(policy), args=args, processing_class=tokenizer, train_dataset=data, eval_dataset=data
    )


def loss_and_gradient(found: Any) -> tuple[float, dict[str, Any]]:
    """Of the one batch there is, through the trainer's loader, its preparation of inputs and ``compute_loss``."""
    model, (batch,) = found.model, list(found.get_train_dataloader())
    model.train()
    model.zero_grad()
    loss = found.compute_loss(model, found._prepare_inputs(batch))
    loss.backward()
    return loss.item(), {name: one.grad.numpy().copy() for name, one in model.named_parameters()}


def by_hand(policy: Path) -> tuple[float, dict[str, Any], np.ndarray]:
    """Loss, gradient and policy margins in float64, a sequence at a time and without padding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float64)

    def log_probability(prompt: list[int], response: list[int]) -> Any:
        ids = torch.tensor(prompt + response)
        logps = torch.log_softmax(model(ids[None]).logits[0, :-1], dim=-1)
        return logps[torch.arange(len(ids) - 1), ids[1:]][len(prompt) - 1 :].sum()

    margins = [
        BETA * ((log_probability(prompt, chosen) - known[0]) - (log_probability(prompt, rejected) - known[1]))
        for (prompt, chosen, rejected), known in zip(TOKENS, REFERENCE, strict=True)
    ]
    values = np.array([margin.item() for margin in margins])
    logits = np.array(KAPPA) * values + np.array(DIVERGENCE)
    slopes = -np.array(KAPPA) / (1 + np.exp(logits)) / len(TOKENS)
    sum(slope * margin for slope, margin in zip(slopes, margins, strict=True)).backward()
    gradient = {name: one.grad.numpy() for name, one in model.named_parameters()}
    return float(np.log1p(np.exp(-logits)).mean()), gradient, values


def test_loss_and_gradient_are_those_of_the_equation(policy: Path, tmp_path: Path) -> None:
    found = trainer("dfpo", policy, tmp_path, kappa=KAPPA, divergence=DIVERGENCE)
    loss, gradient = loss_and_gradient(found)
    expected, expected_gradient, margins = by_hand(policy)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradient.keys() == expected_gradient.keys()
    largest = max(np.abs(one).max() for one in expected_gradient.values())
    for name, one in expected_gradient.items():
        np.testing.assert_allclose(gradient[name], one, atol=2e-6 * largest, rtol=1e-4, err_msg=name)
    # What is logged is the policy's own margin, whatever pairs bring to the loss.
    logged = {name: values[-1] for name, values in found._metrics["train"].items()}
    assert logged["rewards/margins"] == pytest.approx(margins.mean(), rel=1e-5)
    assert logged["rewards/accuracies"] == pytest.approx((margins > 0).mean())
    assert 0 < logged["rewards/accuracies"] < 1
    assert logged[REFERENCE_LOSS] == pytest.approx(np.log1p(np.exp(-np.array(DIVERGENCE))).mean(), rel=1e-6)


def test_without_divergence_and_with_one_aspect_it_is_dpo(policy: Path, tmp_path: Path) -> None:
    loss, gradient = loss_and_gradient(trainer("dfpo", policy, tmp_path, kappa=[1.0] * 3, divergence=[0.0] * 3))
    plain, plain_gradient = loss_and_gradient(trainer("dpo", policy, tmp_path))
    assert loss == pytest.approx(plain, abs=1e-6)
    for name, one in plain_gradient.items():
        np.testing.assert_allclose(gradient[name], one, atol=1e-6, err_msg=name)


def test_terms_are_not_rounded_to_the_dtype_of_the_model() -> None:
    """Under DeepSpeed in bfloat16, Transformers rounds what it puts into a batch."""
    import torch

    from pdray.alignment.trainer import DfpoTrainer

    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    found = DfpoTrainer.__new__(DfpoTrainer)
    found.is_deepspeed_enabled, found.args = True, SimpleNamespace(device="cpu")
    found.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    names = ("kappa", "divergence", "ref_chosen_logps", "ref_rejected_logps")
    batch = {name: torch.tensor([-2.753, 0.1]) for name in names} | {"other": torch.tensor([-2.753])}
    prepared = found._prepare_inputs(batch)
    assert all(torch.equal(prepared[name], batch[name]) for name in names)
    assert prepared["other"].dtype == torch.bfloat16, "or nothing would have been rounded"


def test_held_out_pairs_have_the_same_loss(policy: Path, tmp_path: Path) -> None:
    found = trainer("dfpo", policy, tmp_path, kappa=KAPPA, divergence=DIVERGENCE)
    figures = found.evaluate()
    expected, _, margins = by_hand(policy)
    assert figures["eval_loss"] == pytest.approx(expected, rel=1e-6)
    logged = found.state.log_history[-1]
    assert logged["eval_rewards/margins"] == pytest.approx(margins.mean(), rel=1e-5)
    assert logged[f"eval_{REFERENCE_LOSS}"] == pytest.approx(np.log1p(np.exp(-np.array(DIVERGENCE))).mean(), rel=1e-6)
