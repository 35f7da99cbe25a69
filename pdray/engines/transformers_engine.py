"""Reward models in Transformers: the plain engine, and the reference that other engines are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pdray.engines.engine import EngineOptions, Rewards, TokenIds
from pdray.models.loading import load_weights
from pdray.models.pooling import Pooling

CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 65536


class TransformersEngine:
    """A model in Transformers, batched by length: the logits of a sequence classifier, or an encoder's embeddings.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.engines.engine.EngineOptions`.
        pooling: how token states become an embedding; None where the folder is a sequence classifier.
        batch_tokens: padded tokens per forward pass; None fits the device, 1 scores text by text.

    Raises:
        UserError: the folder lacks weights of the model, its head among them, or has them in other sizes.
    """

    def __init__(
        self,
        model_path: str,
        options: EngineOptions,
        batch_tokens: int | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        from transformers import AutoModel, AutoModelForSequenceClassification

        model_class = AutoModel if pooling else AutoModelForSequenceClassification
        self._model, self._device = load_model(f"a reward model is {model_path}", model_path, model_class, options)
        self._pooling = pooling
        padding = self._model.config.get_text_config().pad_token_id
        self._padding = padding or 0
        fitting = GPU_BATCH_TOKENS if options.num_gpus > 0 else CPU_BATCH_TOKENS
        # A decoder head without a padding token cannot find the end of a padded text.
        self._batch_tokens = 1 if padding is None else (batch_tokens or fitting)

    def score(self, token_ids: TokenIds) -> Rewards:
        """See :class:`~pdray.engines.engine.RewardEngine`."""
        config = self._model.config
        width = config.get_text_config().hidden_size if self._pooling else config.num_labels
        rewards = np.empty((len(token_ids), width), dtype=np.float32)
        for rows in length_batches([len(ids) for ids in token_ids], self._batch_tokens):
            rewards[rows] = self._forward([token_ids[row] for row in rows])
        return rewards

    def _forward(self, token_ids: TokenIds) -> Rewards:
        import torch

        input_ids, mask = padded(token_ids, self._padding)
        with torch.inference_mode():
            attention_mask = torch.from_numpy(mask).to(self._device)
            output = self._model(input_ids=torch.from_numpy(input_ids).to(self._device), attention_mask=attention_mask)
            values = pooled(output.last_hidden_state, attention_mask, self._pooling) if self._pooling else output.logits
        rewards: Rewards = values.float().cpu().numpy()
        return rewards


def load_model(name: str, model_path: str, model_class: Any, options: EngineOptions) -> tuple[Any, str]:
    """A model that is ready to read, and the device that its inputs go to.

    Args:
        name: how messages call the folder.
        model_path: Hugging Face folder.
        model_class: one of Transformers' ``AutoModel…``.
        options: see :class:`~pdray.engines.engine.EngineOptions`.

    Raises:
        UserError: see :func:`~pdray.models.loading.load_weights`.
    """
    import torch

    device = "cuda" if options.num_gpus > 0 else "cpu"
    # The reference of a model that vLLM splits does not fit on one GPU either.
    spread: dict[str, Any] = {"device_map": "auto"} if options.num_gpus > 1 else {}
    model = load_weights(name, model_path, model_class, dtype=getattr(torch, options.dtype), **spread)
    return (model if spread else model.to(device)).eval(), device


def padded(token_ids: TokenIds, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts padded on the right: ids and mask, both (texts, longest) int64, the mask 1 for tokens of the text."""
    input_ids = np.full((len(token_ids), max(map(len, token_ids))), padding, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return input_ids, mask


def pooled(states: Any, attention_mask: Any, pooling: Pooling) -> Any:
    """(B, H) float32 embeddings of right-padded texts.

    Args:
        states: (B, L, H) of the last layer.
        attention_mask: (B, L), 1 for tokens of the text.
        pooling: ``mean`` over the tokens of a text, or the state of its first (``cls``) or ``last`` token.
    """
    states = states.float()
    if pooling == "cls":
        return states[:, 0]
    lengths = attention_mask.sum(1)
    if pooling == "last":
        return states[range(len(states)), lengths - 1]
    return (states * attention_mask[..., None]).sum(1) / lengths[:, None]


def length_batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each at most ``batch_tokens`` when padded.

    Args:
        lengths: tokens per text.
        batch_tokens: padded tokens per batch; a longer text makes a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(lengths[order[start]], 1))
        yield order[start : start + size]
        start += size
