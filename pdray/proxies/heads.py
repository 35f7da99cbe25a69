"""Training a head without its backbone: the backbone runs once per text, its output is looked up afterwards.

A frozen backbone gives a text the same hidden states in every epoch. A classifier reads them at one token:
the last one in a decoder, the first one in a BERT-type encoder. That vector is the feature. The head is all
that the classifier computes from it: ``score`` in a Llama, pooler and ``classifier`` in a BERT.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as BackboneOutput

from pdray.errors import UserError

TOLERANCE = 1e-3  # of the reward; float32 kernels differ by less, a wrong token by far more


class FeatureTable(nn.Module):
    """Stands where the backbone was: ``input_ids`` (B, 1) are rows of a table of features (T, H).

    Args:
        features: (T, H) float32.
        pooler: the backbone's own pooler, which belongs to the head, or None.
    """

    features: torch.Tensor

    def __init__(self, features: torch.Tensor, pooler: nn.Module | None) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.pooler = pooler

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BackboneOutput:
        """Hidden states (B, 1, H) and, with a pooler, its output (B, H)."""
        hidden = self.features[input_ids]
        pooled = self.pooler(hidden) if self.pooler is not None else None
        return BackboneOutput(last_hidden_state=hidden, pooler_output=pooled)


def swap_backbone(model: Any, features: torch.Tensor) -> nn.Module:
    """Put a table of features in the place of the backbone; the model then reads row numbers and is all head.

    Args:
        model: a sequence classifier.
        features: (T, H) float32.

    Returns:
        the backbone, for :func:`restore_backbone`; its pooler, if any, is shared and trained.
    """
    backbone: nn.Module = getattr(model, model.base_model_prefix)
    pooler = getattr(backbone, "pooler", None)
    setattr(model, model.base_model_prefix, FeatureTable(features, pooler))
    return backbone


def restore_backbone(model: Any, backbone: nn.Module) -> None:
    """Undo :func:`swap_backbone`; the trained head stays."""
    setattr(model, model.base_model_prefix, backbone)


@torch.inference_mode()
def compute_features(model: Any, texts: list[list[int]], pad_token_id: int) -> np.ndarray:
    """Hidden state of each text at the token that the head reads.

    Args:
        model: a sequence classifier in eval mode.
        texts: token ids, a batch of B.
        pad_token_id: padding on the right.

    Returns:
        (B, H) float32.
    """
    input_ids, mask = pad_right(texts, pad_token_id, model.device)
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
    position = mask.sum(1) - 1 if reads_last_token(model) else torch.zeros_like(mask[:, 0])
    return np.asarray(hidden[torch.arange(len(texts), device=model.device), position].float().cpu())


def reads_last_token(model: Any) -> bool:
    """Whether the head reads the last token, as in a decoder, and not the first."""
    return hasattr(model, "score")


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
def rewards(model: Any, texts: list[list[int]], pad_token_id: int, batch_size: int = 32) -> np.ndarray:
    """Raw logit of each text, (n,) float64; batches are made of texts of like length."""
    model.eval()
    result = np.empty(len(texts))
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        input_ids, mask = pad_right([texts[index] for index in batch], pad_token_id, model.device)
        result[batch] = model(input_ids=input_ids, attention_mask=mask).logits[:, 0].double().cpu().numpy()
    return result


def check_features(model: Any, texts: list[list[int]], pad_token_id: int) -> None:
    """Prove on a few texts that the head on features gives the rewards of the whole model.

    Raises:
        UserError: it does not, so this kind of model cannot be trained head only.
    """
    whole = rewards(model, texts, pad_token_id)
    backbone = swap_backbone(model, torch.as_tensor(compute_features(model, texts, pad_token_id), device=model.device))
    try:
        head_only = rewards(model, [[row] for row in range(len(texts))], pad_token_id)
    except (TypeError, AttributeError, IndexError) as error:
        head_only = np.full(len(texts), np.nan)
        reason = f"{type(error).__name__}: {error}"
    else:
        reason = f"rewards differ by {np.abs(whole - head_only).max():.2g}"
    finally:
        restore_backbone(model, backbone)
    if not np.allclose(whole, head_only, atol=TOLERANCE, rtol=TOLERANCE):
        raise UserError(
            f"proxies.train is 'head', but the head of a {type(model).__name__} reads more than one token's hidden "
            f"state ({reason}); set proxies.train to 'all'"
        )
