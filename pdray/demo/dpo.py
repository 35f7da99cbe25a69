"""DPO and DFPO by the product's own trainers, in one process, and what a policy answers afterwards.

DeepSpeed and Ray Train, which the alignment stage puts around the trainers, change where tensors lie and not what is
computed: its tests hold the losses of ZeRO-0 to 3 and of plain training together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdray.models.loading import WEIGHTS, load_tokenizer_files
from pdray.responses import CutRule

MAX_TOKENS = 64
RULE = CutRule(MAX_TOKENS, MAX_TOKENS // 2)  # the world's texts are shorter
PAIRS_PER_STEP = 16


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        loss: ``dpo`` or ``dfpo``.
        steps: optimizer steps; the pairs are gone through as often as that takes.
        beta: β.
        learning_rate: at first; it falls linearly.
        seed: of the order.
    """

    loss: str
    steps: int
    beta: float
    learning_rate: float
    seed: int


def log_probabilities(policy: Path, pairs: list[dict[str, Any]], rule: CutRule = RULE) -> np.ndarray:
    """What a policy gives to chosen and rejected response of each pair, cut by a rule, (n, 2) float32, nats."""
    import pyarrow as pa

    from pdray.evaluation import stage

    table = pa.table({name: [pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")})
    logps: np.ndarray = stage.log_probabilities(table, [str(policy)], rule, 0.0)[:, 0]
    return logps


def encode(policy: Path, pairs: list[dict[str, Any]], rule: CutRule = RULE) -> list[dict[str, Any]]:
    """The pairs as the trainer reads them, cut by a rule, with the untouched policy's log-probabilities."""
    from pdray.alignment.encode import PairEncoder
    from pdray.alignment.trainer import REFERENCE_COLUMNS

    texts = [[pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")]
    encoded = PairEncoder(load_tokenizer_files(str(policy)), rule).encode(*texts)
    return [
        {
            "prompt_ids": one.prompt,
            "chosen_ids": one.chosen,
            "rejected_ids": one.rejected,
            **dict(zip(REFERENCE_COLUMNS, map(float, known), strict=True)),
        }
        for one, known in zip(encoded, log_probabilities(policy, pairs, rule), strict=True)
    ]


def train(policy: Path, pairs: list[dict[str, Any]], training: Training, folder: Path) -> list[float]:
    """Train a policy on encoded pairs; DFPO's have ``kappa`` and ``divergence`` as well.

    Args:
        policy: folder of the start, which is the reference too.
        pairs: of :func:`encode`.
        training: its settings.
        folder: where the policy goes.

    Returns:
        the loss of every tenth step, nats.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOConfig

    from pdray.alignment.trainer import TRAINERS

    tokenizer = load_tokenizer_files(str(policy))
    trainer = TRAINERS[training.loss](
        model=str(policy),
        args=DPOConfig(
            output_dir=str(folder / "trainer"),
            use_cpu=True,
            beta=training.beta,
            max_length=None,
            remove_unused_columns=False,
            precompute_ref_log_probs=True,
            max_steps=training.steps,
            learning_rate=training.learning_rate,
            per_device_train_batch_size=PAIRS_PER_STEP,
            dataloader_drop_last=len(pairs) >= PAIRS_PER_STEP,
            gradient_checkpointing=False,
            bf16=False,
            seed=training.seed,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            trust_remote_code=False,
            model_init_kwargs={**WEIGHTS, "dtype": "float32"},
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(pairs),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]


def sample(policy: Path, prompts: list[str], seed: int) -> list[str]:
    """A response of the policy to each prompt, drawn at temperature 1; the prompts have equally many tokens."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    tokenizer = load_tokenizer_files(str(policy))
    model = AutoModelForCausalLM.from_pretrained(policy, **WEIGHTS).eval()
    ids = torch.tensor(tokenizer(prompts)["input_ids"])
    set_seed(seed)
    with torch.inference_mode():
        texts = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=MAX_TOKENS - ids.shape[1]
        )
    responses: list[str] = tokenizer.batch_decode(texts[:, ids.shape[1] :], skip_special_tokens=True)
    return responses
