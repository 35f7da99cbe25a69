"""The small models of the world: the tokenizer of its words, and a backbone for proxies and the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdray.demo.dpo import MAX_TOKENS
from pdray.demo.models import SPECIAL_TOKENS, small_llama
from pdray.demo.words import vocabulary

POLICY_SIZE = 64


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


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL_TOKENS.values(), *vocabulary()])}
    tokenizer = Tokenizer(WordLevel(words, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
