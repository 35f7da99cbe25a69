"""DPO and DFPO by the product's own trainers, in one process.

DeepSpeed and Ray Train, which the alignment stage puts around them, change where tensors lie and not what is computed:
its tests hold the losses of ZeRO-0 to 3 and of plain training together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.method.evaluation import log_probabilities
from benchmarks.method.models import RULE

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


def encode(policy: Path, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs as the trainer reads them, with the untouched policy's log-probabilities."""
    from transformers import AutoTokenizer

    from pdray.alignment.encode import PairEncoder
    from pdray.alignment.trainer import REFERENCE_COLUMNS

    texts = [[pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")]
    encoded = PairEncoder(AutoTokenizer.from_pretrained(policy), RULE).encode(*texts)
    return [
        {
            "prompt_ids": one.prompt,
            "chosen_ids": one.chosen,
            "rejected_ids": one.rejected,
            **dict(zip(REFERENCE_COLUMNS, map(float, known), strict=True)),
        }
        for one, known in zip(encoded, log_probabilities(policy, pairs), strict=True)
    ]


def swap(pair: dict[str, Any]) -> dict[str, Any]:
    """An encoded pair labelled the other way round."""
    sides = {"chosen": "rejected", "rejected": "chosen"}
    return pair | {
        name.replace(side, other): value
        for name, value in pair.items()
        for side, other in sides.items()
        if side in name
    }


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
    from transformers import AutoTokenizer, PrinterCallback
    from trl import DPOConfig

    from pdray.alignment.trainer import TRAINERS

    tokenizer = AutoTokenizer.from_pretrained(policy)
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
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(pairs),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]


def with_terms(pairs: list[dict[str, Any]], aspects: list[str], divergence: np.ndarray) -> list[dict[str, Any]]:
    """Encoded pairs with κ and Δφ, all weights 1.

    Args:
        pairs: n of :func:`encode`.
        aspects: n names, of the aspect that labelled each pair; every aspect is among them.
        divergence: (n,) PD.
    """
    from pdray.alignment.dfpo import dfpo_terms

    terms = dfpo_terms(aspects, divergence, dict.fromkeys(aspects, 1.0))
    return [
        pair | {"kappa": float(kappa), "divergence": float(one)} for pair, kappa, one in zip(pairs, *terms, strict=True)
    ]
