"""A language model that says the same words after every conversation: each token leads to one other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.tiny import tiny_tokenizer

WIDTH = 256  # an axis for each token


def parrot(folder: Path, words: str) -> Path:
    """Write the model and its tokenizer, with a chat template, into a folder.

    Args:
        folder: created where missing.
        words: what it says; each word once.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tiny_tokenizer(folder, "llama", chat=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([word for word in words.split() if word not in tokenizer.get_vocab()])
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=WIDTH,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model = LlamaForCausalLM(config)
    chain = tokenizer.convert_tokens_to_ids(["<|assistant|>", *words.split(), tokenizer.eos_token])
    with torch.no_grad():
        layer = model.model.layers[0]
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(WIDTH))
        for token, following in pairwise(chain):
            model.lm_head.weight[following, token] = 1.0
    model.save_pretrained(folder)
    return Path(folder)
