"""The model that a proxy starts from: one reward on top, and a pad token that is never part of a text."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pdray.errors import UserError

PAD = "<|pad|>"


def load_tokenizer(base_model: str) -> Any:
    """The tokenizer of a model folder, with a pad token that differs from every token that ends a text.

    A decoder's reward is read at its last token that is no padding. Where the pad token is the EOS token, as in
    many chat models, Transformers would skip the EOS at the end of a text and other engines would not.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id, None}
    if tokenizer.pad_token_id in taken:
        if tokenizer.unk_token_id not in taken:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def load_reward_model(base_model: str, tokenizer: Any, seed: int) -> Any:
    """A sequence classifier with one label in float32; a head that the folder lacks is drawn from the seed.

    Args:
        base_model: model folder, an encoder or a decoder.
        tokenizer: from :func:`load_tokenizer`.
        seed: the same seed gives the same weights on every worker.

    Raises:
        UserError: Transformers has no sequence classifier for this kind of model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

    config = AutoConfig.from_pretrained(base_model, num_labels=1)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(
            f"proxies.base_model is {base_model}, a model of type {config.model_type}, for which Transformers has no "
            "sequence classification head; choose another base model"
        )
    set_seed(seed)
    with _quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(
            base_model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
        )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model


def is_classifier(base_model: str) -> bool:
    """Whether a model folder was saved as a sequence classifier, so that every weight of its head has been trained."""
    config = json.loads((Path(base_model) / "config.json").read_text(encoding="utf-8"))
    return any(kind.endswith("ForSequenceClassification") for kind in config.get("architectures") or [])


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    # A new head on a language model is what we ask for; Transformers warns about each of its weights.
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def save_proxy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: safetensors, config with num_labels 1 and pad token, tokenizer."""
    model.config.dtype = model.dtype
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_ready_model(aspect: str, folder: str) -> None:
    """Refuse a folder that holds no reward model.

    Raises:
        UserError: the config cannot be read, names no sequence classifier, or has another number of labels than one.
    """
    name = f"proxies.models.{aspect}"
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{name} is {folder}, which holds no readable config.json; name a model folder") from None
    kinds = config.get("architectures") or ["nothing"]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise UserError(
            f"{name} is {folder}, a {', '.join(kinds)}, but a reward model is a …ForSequenceClassification; "
            "name a folder that was saved as one"
        )
    # Transformers writes the labels only where there are not two.
    num_labels = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    if num_labels != 1:
        raise UserError(
            f"{name} is {folder}, whose head has {num_labels} labels, but a reward is one number; "
            "name a model with num_labels 1"
        )
