"""The last layers of a sequence classifier: what they read is the feature, they are the proxy.

Encoders of the BERT family put a dense layer with tanh between the hidden state of the first token and the final layer.
In a folder that is no classifier those weights were never trained to classify: there the hidden state is the feature,
and the proxies bring a dense layer of their own. To compute features the dense layer becomes ε times the identity:
tanh(εx) is εx up to (εx)³/3. Which layers this can be done to is not looked up by name but tried: a layer whose output
is not ε times its input keeps its weights, as do those of a folder that is a classifier, and the feature is what the
final layer reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from pdray.errors import UserError
from pdray.proxies.forms import EPSILON

PROBE_TOKENS = 5
PROBE_TOLERANCE = 1e-3  # of the largest value; a tanh is off by far less, any other activation by far more


def final_linear(model: Any) -> tuple[str, nn.Linear]:
    """Name and module of the layer that makes the logits: the last linear layer outside the backbone.

    Raises:
        UserError: the classifier has none.
    """
    backbone = f"{model.base_model_prefix}."
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(backbone)
    ]
    if not layers or layers[-1][1].out_features != model.config.num_labels:
        raise UserError(
            f"proxies.train is 'head', but a {type(model).__name__} does not end in one linear layer; set "
            "proxies.train to 'all'"
        )
    return layers[-1]


def pass_through(model: Any) -> str | None:
    """Let the final layer read ε times the hidden state, where a dense layer with tanh lies in between.

    Args:
        model: a sequence classifier in float32, whose dense layer is changed in place.

    Returns:
        the name of that layer, as in the safetensors file; None where there is none, and nothing is changed.
    """
    model.eval()
    for name, dense in _layers_between(model):
        kept = {part: value.clone() for part, value in dense.state_dict().items()}
        with torch.no_grad():
            dense.weight.copy_(EPSILON * torch.eye(dense.in_features))
            dense.bias.zero_()
        if _passes(model, dense):
            return name
        dense.load_state_dict(kept)
    return None


def _layers_between(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """Square linear layers with bias that may lie between the encoder and the final layer."""
    final, prefix = final_linear(model)[1], f"{model.base_model_prefix}."
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    pooler = [(name, module) for name, module in layers if name.startswith(f"{prefix}pooler.")]
    outside = [(name, module) for name, module in layers if not name.startswith(prefix)]
    for name, module in [*pooler, *outside]:
        if module is not final and module.in_features == module.out_features and module.bias is not None:
            yield name, module


@torch.inference_mode()
def _passes(model: Any, dense: nn.Linear) -> bool:
    read: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            read[name] = inputs[0].detach().float()

        return hook

    watched = {"dense": dense, "final": final_linear(model)[1]}
    handles = [module.register_forward_pre_hook(remember(name)) for name, module in watched.items()]
    try:
        model(input_ids=torch.arange(PROBE_TOKENS)[None] % model.config.get_text_config().vocab_size)
    finally:
        for handle in handles:
            handle.remove()
    hidden, feature = read.get("dense"), read.get("final")
    if hidden is None or feature is None or hidden.shape != feature.shape:
        return False
    return bool((feature / EPSILON - hidden).abs().max() <= PROBE_TOLERANCE * hidden.abs().max())


def set_head(model: Any, weights: np.ndarray, labels: list[str]) -> str:
    """Give a sequence classifier a linear head without bias.

    Args:
        model: changed in place; its config gets the labels.
        weights: (num_labels, H) float32.
        labels: their names, in order.

    Returns:
        the name of the final layer, as in the safetensors file.
    """
    name, old = final_linear(model)
    head = nn.Linear(old.in_features, len(labels), bias=old.bias is not None, dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32)))
        if head.bias is not None:
            head.bias.zero_()
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, head)
    model.config.num_labels = model.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    return name


def set_dense(model: Any, name: str, weight: np.ndarray, bias: np.ndarray) -> None:
    """Give the dense layer before the head its weights.

    Args:
        model: changed in place.
        name: of :func:`pass_through`.
        weight: (H, H) float32.
        bias: (H,) float32.
    """
    dense = model.get_submodule(name)
    with torch.no_grad():
        dense.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        dense.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))


def pad_right(texts: list[list[int]], pad_token_id: int, device: Any = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of a batch, both (B, L) int64."""
    width = max(len(text) for text in texts)
    input_ids = torch.full((len(texts), width), pad_token_id)
    mask = torch.zeros((len(texts), width), dtype=torch.long)
    for row, text in enumerate(texts):
        input_ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return input_ids.to(device), mask.to(device)


@torch.inference_mode()
def logits(model: Any, texts: list[list[int]], pad_token_id: int, batch_size: int = 32) -> np.ndarray:
    """Raw logits of each text, (n, num_labels) float64; batches are made of texts of like length."""
    model.eval()
    result = np.empty((len(texts), model.config.num_labels))
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        input_ids, mask = pad_right([texts[index] for index in batch], pad_token_id, model.device)
        result[batch] = model(input_ids=input_ids, attention_mask=mask).logits.double().cpu().numpy()
    return result
