"""Models in vLLM, inside the process of the actor: reward models and encoders, and what all vLLM engines share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pdray.engines.engine import EngineOptions, Rewards, TokenIds
from pdray.errors import UserError
from pdray.models.pooling import Pooling

# vLLM's own processes load 20 times slower and hide from Ray; its thread binding puts every actor on the same cores.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}


class VllmEngine:
    """A model in vLLM's pooling runner: the raw logits of a sequence classifier, or the embeddings of an encoder.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.engines.engine.EngineOptions`.
        pooling: how token states become an embedding; None where the folder is a sequence classifier.

    Raises:
        UserError: vLLM is not installed.
    """

    def __init__(self, model_path: str, options: EngineOptions, pooling: Pooling | None = None) -> None:
        arguments: dict[str, Any] = {"runner": "pooling", "max_model_len": options.max_tokens}
        require_vllm(options)
        from vllm import PoolingParams
        from vllm.config import PoolerConfig

        self._padding = padding_id(model_path)
        self._params = PoolingParams(use_activation=False)
        self._embeds = pooling is not None
        if pooling is not None:
            arguments |= {"convert": "embed", "pooler_config": PoolerConfig(seq_pooling_type=pooling.upper())}
        self._llm = load_llm(model_path, options, arguments)

    def score(self, token_ids: TokenIds) -> Rewards:
        """See :class:`~pdray.engines.engine.RewardEngine`."""
        from vllm.inputs import TokensPrompt

        prompts = [TokensPrompt(prompt_token_ids=without_padding(ids, self._padding)) for ids in token_ids]
        if self._embeds:
            embedded = self._llm.embed(prompts, pooling_params=self._params, use_tqdm=False)
            return np.asarray([output.outputs.embedding for output in embedded], dtype=np.float32)
        outputs = self._llm.classify(prompts, pooling_params=self._params, use_tqdm=False)
        return np.asarray([output.outputs.probs for output in outputs], dtype=np.float32)


def require_vllm(options: EngineOptions) -> None:
    """Import vLLM with the environment that it needs here.

    Raises:
        UserError: it is not installed.
    """
    os.environ.update(ENVIRONMENT)
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{options.section}.engine is vllm, which cannot be imported here ({error}); install pdray[cpu] or "
            f"pdray[gpu], or set {options.section}.engine to transformers"
        ) from error


def load_llm(model_path: str, options: EngineOptions, arguments: dict[str, Any]) -> Any:
    """A ``vllm.LLM`` in this process; needs :func:`require_vllm` first.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.engines.engine.EngineOptions`.
        arguments: beside those that follow from the options; the config's ``engine_args`` come before both.
    """
    from vllm import LLM

    common: dict[str, Any] = {
        "model": model_path,
        "dtype": options.dtype,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "disable_log_stats": True,
        "gpu_memory_utilization": options.memory_share,
        "kv_cache_memory_bytes": None if options.num_gpus else options.cpu_cache_bytes,
    }
    if not options.num_gpus:
        # Compiling takes 20 to 40 s on every start and gains little on a CPU, where there are no graphs to record.
        common["enforce_eager"] = True
    if options.num_gpus > 1:
        # Left alone, vLLM asks Ray for GPUs of its own beside those that this actor holds.
        common |= {"tensor_parallel_size": int(options.num_gpus), "distributed_executor_backend": "mp"}
    return LLM(**(common | arguments | options.engine_args))


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
