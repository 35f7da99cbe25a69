"""The frozen backbone as two model folders: one whose rewards are the features, one whose rewards are the proxies'."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdray.storage import StoragePath, copy_folder


@dataclass(frozen=True)
class Backbone:
    """What is known of a frozen backbone.

    Attributes:
        num_features: H, what the final linear layer reads.
        head: name of that layer in the safetensors file.
        scale: what the layer reads is so many times the logits of the identity head, a power of two.
    """

    num_features: int
    head: str
    scale: float


def write_identity(base_model: str, seed: int, folder: StoragePath) -> Backbone:
    """Write a sequence classifier whose H logits are the features: its final layer is the identity.

    Any engine that gives the raw logits of a classifier then gives features. Where the layer reads ε times the hidden
    state, its weights are 1/ε, so that engines are compared on numbers of the usual size.

    Args:
        base_model: model folder.
        seed: of weights between the encoder and the final layer that the folder lacks and that cannot be passed
            through.
        folder: where to write.

    Raises:
        UserError: Transformers has no sequence classifier with a final linear layer for this kind of model.
    """
    from pdray.proxies.heads import final_linear, set_head

    model, tokenizer, scale = _load(base_model, seed)
    size = final_linear(model)[1].in_features
    name = set_head(model, np.eye(size) / scale, [f"feature_{index}" for index in range(size)])
    save_model(model, tokenizer, folder)
    return Backbone(size, name, scale)


def write_heads(base_model: str, seed: int, weights: np.ndarray, aspects: list[str], folder: StoragePath) -> None:
    """Write the proxies as one sequence classifier with a label for each aspect.

    Args:
        base_model: as in :func:`write_identity`.
        seed: as in :func:`write_identity`.
        weights: (κ, H) heads, on what the final layer reads.
        aspects: of the heads, in order.
        folder: where to write.
    """
    from pdray.proxies.heads import set_head

    model, tokenizer, _ = _load(base_model, seed)
    set_head(model, weights, aspects)
    save_model(model, tokenizer, folder)


def _load(base_model: str, seed: int) -> tuple[Any, Any, float]:
    from pdray.proxies.base import is_classifier, load_reward_model, load_tokenizer
    from pdray.proxies.heads import pass_through

    tokenizer = load_tokenizer(base_model)
    model = load_reward_model(base_model, tokenizer, seed)
    return model, tokenizer, 1.0 if is_classifier(base_model) else pass_through(model)


def save_model(model: Any, tokenizer: Any, folder: StoragePath) -> None:
    """Write an ordinary Hugging Face folder: safetensors, config with labels and pad token, tokenizer."""
    from pdray.proxies.base import save_proxy

    if folder.is_local:
        save_proxy(model, tokenizer, folder.local)
        return
    with tempfile.TemporaryDirectory(prefix="pdray-model-") as scratch:
        save_proxy(model, tokenizer, Path(scratch))
        copy_folder(Path(scratch), folder)
