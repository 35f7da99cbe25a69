"""Log-probabilities of responses in Transformers: the plain engine, and the reference of the comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdray.engines.engine import EngineOptions, Rewards
from pdray.engines.response_text import ResponseText
from pdray.engines.transformers_engine import (
    CPU_BATCH_TOKENS,
    GPU_BATCH_TOKENS,
    length_batches,
    load_model,
    padded,
)

# Logits of one forward pass: tokens times vocabulary. They outgrow everything else that it holds.
CPU_LOGITS = 2**27
GPU_LOGITS = 2**31


class TransformersLogps:
    """A language model in Transformers, batched by length.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.engines.engine.EngineOptions`.
        batch_tokens: padded tokens per forward pass; None fits the device, 1 reads text by text.

    Raises:
        UserError: the folder lacks weights of the model, or has them in other sizes.
    """

    def __init__(self, model_path: str, options: EngineOptions, batch_tokens: int | None = None) -> None:
        from transformers import AutoModelForCausalLM

        name = f"a language model is {model_path}"
        self._model, self._device = load_model(name, model_path, AutoModelForCausalLM, options)
        config = self._model.config.get_text_config()
        self._padding = config.pad_token_id or 0
        on_gpu = options.num_gpus > 0
        tokens, logits = (GPU_BATCH_TOKENS, GPU_LOGITS) if on_gpu else (CPU_BATCH_TOKENS, CPU_LOGITS)
        self._batch_tokens = batch_tokens or max(1, min(tokens, logits // config.vocab_size))

    def score(self, texts: list[ResponseText]) -> Rewards:
        """(texts, 1) float32: the log-probabilities of each response's tokens given what stands before, summed, nats.

        0 for a response without tokens.
        """
        logps = np.empty((len(texts), 1), np.float32)
        for rows in length_batches([len(text.ids) for text in texts], self._batch_tokens):
            logps[rows, 0] = self._forward([texts[row] for row in rows])
        return logps

    def _forward(self, texts: list[ResponseText]) -> list[float]:
        import torch

        if not any(text.num_summed for text in texts):
            return [0.0] * len(texts)
        arrays = padded([text.ids for text in texts], self._padding)
        input_ids, mask = (torch.from_numpy(array).to(self._device) for array in arrays)
        with torch.inference_mode():
            logits = self._model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
            return [_summed(row, ids, text) for row, ids, text in zip(logits, input_ids, texts, strict=True)]


def _summed(logits: Any, ids: Any, text: ResponseText) -> float:
    """The sum for one text from its (L, V) logits, each of which predicts the next token."""
    places = slice(text.first - 1, max(text.first, len(text.ids)) - 1)
    rows = logits[places].float()
    tokens = ids[text.first : len(text.ids)].to(rows.device)
    logps = rows.gather(1, tokens[:, None])[:, 0] - rows.logsumexp(1)
    return float(logps.double().sum())
