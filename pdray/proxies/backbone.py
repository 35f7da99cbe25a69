"""The frozen backbone as two model folders: one whose rewards are the features, one whose rewards are the proxies'."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdray.proxies.forms import EPSILON
from pdray.rewards import RewardHead
from pdray.storage import StoragePath, copy_folder


@dataclass(frozen=True)
class Backbone:
    """What is known of a frozen backbone.

    Attributes:
        num_features: H.
        head: name of the final linear layer in the safetensors file.
        dense: name of the dense layer with tanh before it, which reads the features; None where the head does.
    """

    num_features: int
    head: str
    dense: str | None


def write_identity(base_model: str, seed: int, folder: StoragePath) -> Backbone:
    """Write a sequence classifier whose H logits are the features.

    Any engine that gives the raw logits of a classifier then gives features. Where nothing lies before the final layer,
    that layer is the identity. Where a dense layer with tanh passes on ε times the hidden state, its weights are 1/ε.

    Args:
        base_model: model folder.
        seed: of weights between the encoder and the final layer that the folder lacks and that cannot be passed
            through.
        folder: where to write.

    Raises:
        UserError: Transformers has no sequence classifier with a final linear layer for this kind of model.
    """
    from pdray.proxies.heads import final_linear, set_head

    model, tokenizer, dense = _load(base_model, seed)
    size = final_linear(model)[1].in_features
    name = set_head(model, np.eye(size) / (EPSILON if dense else 1.0), [f"feature_{index}" for index in range(size)])
    save_model(model, tokenizer, folder)
    return Backbone(size, name, dense)


def write_heads(base_model: str, seed: int, head: RewardHead, aspects: list[str], folder: StoragePath) -> None:
    """Write the proxies as one sequence classifier with a label for each aspect.

    Args:
        base_model: as in :func:`write_identity`.
        seed: as in :func:`write_identity`.
        head: with an output for each aspect, in order, without bias; ``dense`` as :class:`Backbone` has one.
        aspects: their names.
        folder: where to write.
    """
    from pdray.proxies.heads import set_dense, set_head

    model, tokenizer, dense = _load(base_model, seed)
    assert (dense is None) == (head.dense is None) and not head.bias.any()
    set_head(model, head.weight, aspects)
    if dense is not None:
        assert head.dense is not None and head.dense_bias is not None
        set_dense(model, dense, head.dense, head.dense_bias)
    save_model(model, tokenizer, folder)


def _load(base_model: str, seed: int) -> tuple[Any, Any, str | None]:
    from pdray.proxies.base import is_classifier, load_reward_model, load_tokenizer
    from pdray.proxies.heads import pass_through

    tokenizer = load_tokenizer(base_model)
    model = load_reward_model(base_model, tokenizer, seed)
    return model, tokenizer, None if is_classifier(base_model) else pass_through(model)


def write_encoder(
    base_model: str, seed: int, folder: StoragePath, head: RewardHead | None = None, aspects: list[str] | None = None
) -> int:
    """Write the backbone as an encoder that reads prompt and response apart, see :mod:`pdray.models.apart`.

    Args:
        base_model: model folder.
        seed: of weights that the folder lacks, none of which is read.
        folder: where to write.
        head: of the features; None writes a folder whose outputs are the features.
        aspects: names of the head's outputs.

    Returns:
        the size of an embedding.

    Raises:
        UserError: the folder asks for a pooling that engines do not have, or is no model that a proxy can start from.
    """
    from transformers import AutoModel

    from pdray.engines.pair_features import blocks
    from pdray.models.apart import write_apart
    from pdray.models.pooling import pooling_of
    from pdray.proxies.base import load_reward_model, load_tokenizer

    pooling = pooling_of(f"proxies.base_model is {base_model}", base_model)
    tokenizer = load_tokenizer(base_model)
    backbone = load_reward_model(base_model, tokenizer, seed).base_model
    encoder = AutoModel.from_config(backbone.config, dtype=backbone.dtype)
    found = encoder.load_state_dict(backbone.state_dict(), strict=False)
    assert not found.unexpected_keys and all(name.startswith("pooler.") for name in found.missing_keys), found
    size: int = encoder.config.get_text_config().hidden_size
    names = [f"{name} {index}" for name, width in blocks(size) for index in range(width)] if head is None else aspects
    assert names is not None
    encoder.config.id2label = dict(enumerate(names))
    encoder.config.label2id = {name: index for index, name in enumerate(names)}
    save_model(encoder, tokenizer, folder, lambda local: write_apart(local, pooling, head))
    return size


def save_model(
    model: Any, tokenizer: Any, folder: StoragePath, add: Callable[[Path], None] = lambda local: None
) -> None:
    """Write an ordinary Hugging Face folder: safetensors, config with labels and pad token, tokenizer.

    Args:
        model: in Transformers.
        tokenizer: its tokenizer.
        folder: where to write.
        add: writes further files into a local folder.
    """
    from pdray.proxies.base import save_proxy

    if folder.is_local:
        save_proxy(model, tokenizer, folder.local)
        add(folder.local)
        return
    with tempfile.TemporaryDirectory(prefix="pdray-model-") as scratch:
        save_proxy(model, tokenizer, Path(scratch))
        add(Path(scratch))
        copy_folder(Path(scratch), folder)
