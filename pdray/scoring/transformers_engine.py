"""Reward models in Transformers: the plain engine, and the reference that other engines are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pdray.models.loading import load_weights
from pdray.scoring.engine import EngineOptions, Rewards, TokenIds

CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 65536


class TransformersEngine:
    """A sequence-classification model in Transformers, batched by length.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.scoring.engine.EngineOptions`.
        batch_tokens: padded tokens per forward pass; None fits the device, 1 scores text by text.

    Raises:
        UserError: the folder lacks weights of the model, its head among them, or has them in other sizes.
    """

    def __init__(self, model_path: str, options: EngineOptions, batch_tokens: int | None = None) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        self._device = "cuda" if options.use_gpu else "cpu"
        model = load_weights(
            f"a reward model is {model_path}",
            model_path,
            AutoModelForSequenceClassification,
            dtype=getattr(torch, options.dtype),
        )
        self._model = model.to(self._device).eval()
        padding = model.config.get_text_config().pad_token_id
        self._padding = padding or 0
        fitting = GPU_BATCH_TOKENS if options.use_gpu else CPU_BATCH_TOKENS
        # A decoder head without a padding token cannot find the end of a padded text.
        self._batch_tokens = 1 if padding is None else (batch_tokens or fitting)

    def score(self, token_ids: TokenIds) -> Rewards:
        """See :class:`~pdray.scoring.engine.RewardEngine`."""
        rewards = np.empty((len(token_ids), self._model.config.num_labels), dtype=np.float32)
        for rows in length_batches([len(ids) for ids in token_ids], self._batch_tokens):
            rewards[rows] = self._forward([token_ids[row] for row in rows])
        return rewards

    def _forward(self, token_ids: TokenIds) -> Rewards:
        import torch

        longest = max(map(len, token_ids))
        input_ids = np.full((len(token_ids), longest), self._padding, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(token_ids):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.from_numpy(input_ids).to(self._device),
                attention_mask=torch.from_numpy(mask).to(self._device),
            ).logits
        rewards: Rewards = logits.float().cpu().numpy()
        return rewards


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
