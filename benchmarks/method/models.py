"""The small models of the comparison, with random weights: a backbone for the world's proxies, and the policies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pdray.demo.dpo import MAX_TOKENS
from pdray.demo.models import SPECIAL_TOKENS, small_llama
from pdray.demo.words import vocabulary

POLICY_SIZE = 64


def build_model(folder: Path, hidden_size: int, seed: int, tokenizer: Any = None, max_tokens: int = MAX_TOKENS) -> Path:
    """Write a two-layer Llama with random weights.

    Args:
        folder: where it goes.
        hidden_size: a multiple of 4; the layers' inner width is twice that.
        seed: of the weights.
        tokenizer: its tokenizer; None for that of the world's words.
        max_tokens: that it reads at most.
    """
    import torch
    from transformers import LlamaForCausalLM, set_seed

    tokenizer = _tokenizer() if tokenizer is None else tokenizer
    config = small_llama(tokenizer, hidden_size, layers=2, positions=max_tokens)
    set_seed(seed)
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_pairs(texts: Iterable[str], size: int) -> Any:
    """A tokenizer of byte pairs that has learnt from some texts and reads any.

    Args:
        texts: to learn from.
        size: of the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL_TOKENS.values(), *vocabulary()])}
    tokenizer = Tokenizer(WordLevel(words, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
