"""Two small random Llamas and their tokenizer, built from the demo corpus without a download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
POSITIONS = 128


def build_models(texts: Iterable[str], proxy_base: Path, policy: Path, seed: int = 0) -> None:
    """Write a proxy backbone and a policy as Hugging Face folders that share a word tokenizer.

    Args:
        texts: what the tokenizer has to know.
        proxy_base: folder for the backbone of the proxy reward models.
        policy: folder for the policy.
        seed: of the random weights.
    """
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(texts), **SPECIAL_TOKENS)
    set_seed(seed)
    for folder, size in ((proxy_base, 128), (policy, 64)):
        config = small_llama(tokenizer, size, layers=2, positions=POSITIONS)
        LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def small_llama(tokenizer: Any, hidden_size: int, layers: int, positions: int) -> Any:
    """The ``LlamaConfig`` of a model that is small enough to be made anew.

    Args:
        tokenizer: whose words and special tokens it has.
        hidden_size: a multiple of 4; the layers' inner width is twice that.
        layers: of the decoder.
        positions: tokens that it reads at most.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )


def word_tokenizer(texts: Iterable[str]) -> Any:
    """A ``tokenizers.Tokenizer`` that knows every word of some texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Sorted, so that words of equal frequency get the same ids in every run.
    trainer = trainers.WordLevelTrainer(special_tokens=list(SPECIAL_TOKENS.values()))
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return tokenizer
