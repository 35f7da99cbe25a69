"""The small models of the world: the tokenizer of its words, a backbone for proxies, and a policy with an SFT start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.method.world import vocabulary
from pdray.demo.models import SPECIAL_TOKENS, small_llama
from pdray.responses import CutRule, prompt_ids, text_ids

MAX_TOKENS = 64
RULE = CutRule(MAX_TOKENS, MAX_TOKENS // 2)  # the world's texts are shorter
POLICY_SIZE = 64
IGNORED = -100  # a label that the loss leaves out


def build_model(folder: Path, hidden_size: int, seed: int) -> Path:
    """Write a two-layer Llama with random weights and the world's tokenizer.

    Args:
        folder: where it goes.
        hidden_size: a multiple of 4; the layers' inner width is twice that.
        seed: of the weights.
    """
    import torch
    from transformers import LlamaForCausalLM, set_seed

    tokenizer = _tokenizer()
    config = small_llama(tokenizer, hidden_size, layers=2, positions=MAX_TOKENS)
    set_seed(seed)
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_sft(
    base: Path, folder: Path, pairs: list[dict[str, Any]], epochs: float, learning_rate: float, seed: int
) -> Path:
    """Train a policy to say the chosen responses, by the next token's log-likelihood over the response.

    Args:
        base: from :func:`build_model`.
        folder: where the trained policy goes.
        pairs: with ``prompt`` and ``chosen``.
        epochs: passes over the pairs.
        learning_rate: at first; it falls linearly.
        seed: of the order.
    """
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [pair["prompt"] for pair in pairs]
    texts = text_ids(tokenizer, prompts, [pair["chosen"] for pair in pairs])
    starts = [len(ids) for ids in prompt_ids(tokenizer, prompts)]
    labels = [[IGNORED] * start + ids[start:] for start, ids in zip(starts, texts, strict=True)]
    model = AutoModelForCausalLM.from_pretrained(base)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(folder / "trainer"),
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
    print("SFT loss", [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry], flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL_TOKENS.values(), *vocabulary()])}
    tokenizer = Tokenizer(WordLevel(words, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
