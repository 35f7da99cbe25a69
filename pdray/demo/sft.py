"""The start of the demo's policy: a small model that has learnt to say the chosen responses of other pairs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pdray.demo.dpo import RULE
from pdray.demo.models import build_models
from pdray.demo.words import vocabulary
from pdray.demo.world import make_pairs
from pdray.models.loading import WEIGHTS, load_tokenizer_files
from pdray.responses import CutRule

IGNORED = -100  # a label that the loss leaves out
PAIRS, SEED = 1600, 1000  # of another corpus than the demo's


def make_models(inputs: Path) -> None:
    """Write the demo's models: ``proxy-base``, and ``policy`` with its start, for DPO on noise would make noise.

    Args:
        inputs: folder of the demo's inputs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        build_models(vocabulary(), inputs / "proxy-base", Path(scratch))
        train_sft(Path(scratch), inputs / "policy", make_pairs(PAIRS, seed=SEED), epochs=4, learning_rate=3e-3, seed=0)


def train_sft(
    base: Path,
    folder: Path,
    pairs: list[dict[str, Any]],
    epochs: float,
    learning_rate: float,
    seed: int,
    rule: CutRule = RULE,
) -> list[float]:
    """Train a policy to say the chosen responses, by the next token's log-likelihood over the response.

    Args:
        base: model folder with random weights.
        folder: where the trained policy goes.
        pairs: with ``prompt`` and ``chosen``.
        epochs: passes over the pairs.
        learning_rate: at first; it falls linearly.
        seed: of the order.
        rule: how prompt and response are cut.

    Returns:
        the loss of every fiftieth step, nats.
    """
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    from pdray.alignment.encode import PairEncoder

    tokenizer = load_tokenizer_files(str(base))
    prompts, chosen = ([pair[name] for pair in pairs] for name in ("prompt", "chosen"))
    encoded = PairEncoder(tokenizer, rule).encode(prompts, chosen, chosen)
    texts = [one.prompt + one.chosen for one in encoded]
    labels = [[IGNORED] * len(one.prompt) + one.chosen for one in encoded]
    model = AutoModelForCausalLM.from_pretrained(base, **WEIGHTS)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(base / "trainer"),
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            learning_rate=learning_rate,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": texts, "labels": labels}),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry]
