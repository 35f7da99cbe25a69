"""The model that a proxy starts from: one reward on top, and a pad token that is never part of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.models.folder import REWARD_ENDING, read_config
from pdray.models.loading import load_config, load_tokenizer_files, load_weights
from pdray.models.vocabulary import require_embeddings

PAD = "<|pad|>"


def load_tokenizer(base_model: str) -> Any:
    """The tokenizer of a model folder, with a pad token that differs from every token that ends a text.

    A decoder's reward is read at its last token that is no padding. Where the pad token is the EOS token, as in
    many chat models, Transformers would skip the EOS at the end of a text and other engines would not.
    """
    tokenizer = load_tokenizer_files(base_model)
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id, None}
    if tokenizer.pad_token_id in taken:
        if tokenizer.unk_token_id not in taken:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def load_reward_model(base_model: str, tokenizer: Any, seed: int, num_labels: int = 1) -> Any:
    """A sequence classifier in float32; a head that the folder lacks, or has in another size, is drawn from the seed.

    The pad token that :func:`load_tokenizer` may have added gets an embedding; it is never read.

    Args:
        base_model: model folder, an encoder or a decoder.
        tokenizer: from :func:`load_tokenizer`.
        seed: the same seed gives the same weights on every worker.
        num_labels: rewards that it gives to a text.

    Raises:
        UserError: Transformers has no sequence classifier for this kind of model, or the folder lacks other weights
            than those of the head, has them in other sizes than its config says, or embeds fewer tokens than its
            tokenizer has.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, set_seed

    name = f"proxies.base_model is {base_model}"
    config = load_config(base_model, num_labels=num_labels)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(
            f"{name}, a model of type {config.model_type}, for which Transformers has no "
            "sequence classification head; choose another base model"
        )
    set_seed(seed)
    model = load_weights(
        name, base_model, AutoModelForSequenceClassification, new_head=True, config=config, dtype=torch.float32
    )
    rows = model.get_input_embeddings().num_embeddings
    own = max(token for token in tokenizer.get_vocab().values() if token != tokenizer.pad_token_id)
    require_embeddings(name, own, rows)
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model


def is_classifier(base_model: str) -> bool:
    """Whether a model folder was saved as a sequence classifier, so that every weight of its head has been trained."""
    kinds = read_config(f"proxies.base_model is {base_model}", base_model).get("architectures") or []
    return any(kind.endswith(REWARD_ENDING) for kind in kinds)


def save_proxy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: safetensors, config with labels and pad token, tokenizer."""
    model.config.dtype = model.dtype
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
