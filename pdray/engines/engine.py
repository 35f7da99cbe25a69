"""What turns token ids into rewards or log-probabilities: one protocol, engines chosen by the config alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float32]
TokenIds = list[list[int]]
Output = Literal["rewards", "logps"]


class RewardEngine(Protocol):
    """One model, loaded."""

    def score(self, token_ids: Any) -> Rewards:
        """Raw head outputs of whole texts, no activation; or log-probabilities of their responses.

        Args:
            token_ids: one list per text, special tokens included, or an object that says more of a text, as
                :class:`~pdray.engines.response_text.ResponseText` says where its response begins. Neighbours that share
                a prefix (the responses to one prompt) let a decoder engine reuse it.

        Returns:
            (num_texts, num_outputs) float32, in the order of the texts.
        """
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is loaded; picklable, holds no library object.

    Attributes:
        engine: ``vllm`` or ``transformers``.
        dtype: weights and activations.
        max_tokens: most tokens per text, special tokens included.
        threads: CPU threads of the process that holds the engine.
        num_gpus: GPUs that Ray gave that process; 0 is a CPU.
        memory_share: share of the whole GPU's memory for this engine alone.
        cpu_cache_bytes: KV cache of this engine on a CPU.
        engine_args: further arguments of ``vllm.LLM``.
        output: ``rewards`` of a sequence classifier, or ``logps`` of a language model.
        section: of the config that the options come from, for messages.
    """

    engine: Literal["vllm", "transformers"]
    dtype: str
    max_tokens: int
    threads: int = 1
    num_gpus: float = 0
    memory_share: float = 0.8
    cpu_cache_bytes: int = 2**30
    engine_args: dict[str, Any] = field(default_factory=dict)
    output: Output = "rewards"
    section: str = "scores"


class EngineLoader(Protocol):
    """Loads the model in a folder; :func:`load_engine`, or a test's double."""

    def __call__(self, model_path: str, options: EngineOptions) -> RewardEngine: ...


def load_engine(model_path: str, options: EngineOptions) -> RewardEngine:
    """Load a model with the engine that the options name, for the output that they name. Runs on workers.

    A folder that reads prompt and response apart (see :mod:`pdray.models.apart`) is an encoder in that same engine.

    Raises:
        UserError: the engine's package is not installed.
    """
    limit_threads(options.threads)
    if options.output == "logps":
        return _load_logps(model_path, options)
    if options.engine == "vllm":
        from pdray.engines.vllm_engine import VllmEngine

        return _reading(model_path, partial(VllmEngine, model_path, options))
    from pdray.engines.transformers_engine import TransformersEngine

    return _reading(model_path, partial(TransformersEngine, model_path, options))


def load_reference(model_path: str, options: EngineOptions) -> RewardEngine:
    """The same model in Transformers in float32, one text at a time: without batching or padding of any engine's."""
    from pdray.engines.transformers_engine import TransformersEngine

    limit_threads(options.threads)
    plain = replace(options, engine="transformers", dtype="float32")
    if options.output == "logps":
        return _load_logps(model_path, plain, batch_tokens=1)
    return _reading(model_path, partial(TransformersEngine, model_path, plain, batch_tokens=1))


def _load_logps(model_path: str, options: EngineOptions, batch_tokens: int | None = None) -> RewardEngine:
    if options.engine == "vllm":
        from pdray.engines.vllm_logps import VllmLogps

        return VllmLogps(model_path, options)
    from pdray.engines.transformers_logps import TransformersLogps

    return TransformersLogps(model_path, options, batch_tokens)


def _reading(model_path: str, load: Callable[..., RewardEngine]) -> RewardEngine:
    from pdray.engines.apart import ApartEngine
    from pdray.models.apart import is_apart, read_apart

    if not is_apart(model_path):
        return load()
    pooling, head = read_apart(model_path)
    return ApartEngine(load(pooling=pooling), head)


def limit_threads(threads: int) -> None:
    """Keep this process to so many CPU threads; several actors share a node."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
