"""Reward models in vLLM, inside the process of the actor."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from pdray.errors import UserError
from pdray.scoring.engine import EngineOptions, Rewards, TokenIds

# vLLM's own processes load 20 times slower and hide from Ray; its thread binding puts every actor on the same cores.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}


class VllmEngine:
    """A sequence-classification model in vLLM's pooling runner; raw logits.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.scoring.engine.EngineOptions`.

    Raises:
        UserError: vLLM is not installed.
    """

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        os.environ.update(ENVIRONMENT)
        try:
            from vllm import LLM, PoolingParams
        except ImportError as error:
            raise UserError(
                f"scores.engine is vllm, which cannot be imported here ({error}); install pdray[cpu] or pdray[gpu], "
                "or set scores.engine to transformers"
            ) from error
        self._padding = padding_id(model_path)
        self._params = PoolingParams(use_activation=False)
        self._llm = LLM(
            model=model_path,
            trust_remote_code=False,
            load_format="safetensors",
            runner="pooling",
            dtype=options.dtype,
            max_model_len=options.max_tokens,
            enforce_eager=True,
            disable_log_stats=True,
            gpu_memory_utilization=options.memory_share,
            kv_cache_memory_bytes=None if options.use_gpu else options.cpu_cache_bytes,
        )

    def score(self, token_ids: TokenIds) -> Rewards:
        """See :class:`~pdray.scoring.engine.RewardEngine`."""
        from vllm.inputs import TokensPrompt

        prompts = [TokensPrompt(prompt_token_ids=without_padding(ids, self._padding)) for ids in token_ids]
        outputs = self._llm.classify(prompts, pooling_params=self._params, use_tqdm=False)
        return np.asarray([output.outputs.probs for output in outputs], dtype=np.float32)


def padding_id(model_path: str) -> int | None:
    """The padding token of a model folder's config, as Transformers' classification heads look for it."""
    config = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    padding: int | None = config.get("text_config", config).get("pad_token_id")
    return padding


def without_padding(ids: list[int], padding: int | None) -> list[int]:
    """Token ids up to the last that is not padding, where Transformers' decoder heads read the reward.

    Models whose padding token is their EOS token were trained with that reading; vLLM would read at the EOS.
    """
    end = len(ids)
    while end > 1 and ids[end - 1] == padding:
        end -= 1
    return ids[:end]
