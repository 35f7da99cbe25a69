"""Tiny random models and tokenizers, built in a second, that Transformers and vLLM both load."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = (
    "the a an and of to in is it that for on with as was be by at this have from or one had not but what all were "
    "when we there can said which do how if will up other about out many then them these so some her would make like "
    "him into time has look two more go see no way could people my than first been who now find long down day did get "
    "come made may part good bad kind helpful harmless honest wrong right answer question please thank you i"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def tiny_tokenizer(folder: Path, style: str = "bert", chat: bool = False) -> Path:
    """Write a word-level tokenizer into a folder.

    Args:
        folder: created where missing.
        style: ``bert`` puts [CLS] and [SEP] around a text; ``llama`` puts <s> before it.
        chat: whether it has a chat template.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    start, end, pad = ("[CLS]", "[SEP]", "[PAD]") if style == "bert" else ("<s>", "</s>", "<pad>")
    marks = [pad, "[UNK]", start, end, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'")
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(marks + letters + WORDS.split()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = f"{start} $A {end}" if style == "bert" else f"{start} $A"
    used = [start, end] if style == "bert" else [start]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in used]
    )
    roles = {"cls_token": start, "sep_token": end} if style == "bert" else {"bos_token": start, "eos_token": end}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token="[UNK]", model_max_length=512, **roles
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]})
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return Path(folder)


def tiny_bert(folder: Path, seed: int = 0, num_labels: int = 1, max_positions: int = 128, chat: bool = False) -> Path:
    """Write a two-layer BERT classifier with random weights, and its tokenizer, into a folder."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tiny_tokenizer(folder, "bert", chat)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=_vocabulary_size(folder),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=max_positions,
        num_labels=num_labels,
        pad_token_id=0,
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return Path(folder)


def tiny_encoder(folder: Path) -> Path:
    """Write a two-layer BERT without a classifier, and its tokenizer, into a folder."""
    from transformers import BertForSequenceClassification

    tiny_bert(folder)
    BertForSequenceClassification.from_pretrained(folder).bert.save_pretrained(folder)
    return Path(folder)


def tiny_roberta(folder: Path) -> Path:
    """Write a two-layer RoBERTa encoder with random weights, and its tokenizer, into a folder."""
    import torch
    from transformers import RobertaConfig, RobertaModel

    tiny_tokenizer(folder, "bert")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=_vocabulary_size(folder),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=130,
        pad_token_id=0,
        initializer_range=0.2,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return Path(folder)


def tiny_llama_lm(folder: Path, seed: int = 0, max_positions: int = 256, chat: bool = True) -> Path:
    """Write a two-layer Llama language model with random weights, and its tokenizer, into a folder."""
    import torch
    from transformers import LlamaForCausalLM

    tiny_tokenizer(folder, "llama", chat)
    torch.manual_seed(seed)
    LlamaForCausalLM(_llama_config(folder, max_positions)).save_pretrained(folder)
    return Path(folder)


def tiny_llama_reward(
    folder: Path, seed: int = 0, num_labels: int = 1, max_positions: int = 256, pad_is_eos: bool = False
) -> Path:
    """Write a two-layer Llama reward model with random weights, and its tokenizer, into a folder."""
    import torch
    from transformers import LlamaForSequenceClassification

    tiny_tokenizer(folder, "llama", chat=True)
    torch.manual_seed(seed)
    config = _llama_config(folder, max_positions, num_labels=num_labels)
    if pad_is_eos:
        config.pad_token_id = config.eos_token_id
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return Path(folder)


def _llama_config(folder: Path, max_positions: int, **options: int):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=_vocabulary_size(folder),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=128,
        max_position_embeddings=max_positions,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.2,
        **options,
    )


def _vocabulary_size(folder: Path) -> int:
    tokens = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return -(-len(tokens) // 64) * 64


def tiny_opt_lm(folder: Path, seed: int = 0, layerdrop: float = 0.0) -> Path:
    """Write a two-layer OPT language model with random weights, and its tokenizer, into a folder."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    tiny_tokenizer(folder, "llama")
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=_vocabulary_size(folder),
        hidden_size=64,
        word_embed_proj_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=128,
        max_position_embeddings=256,
        layerdrop=layerdrop,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        init_std=0.2,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    return Path(folder)
