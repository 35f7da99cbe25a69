"""What scores token ids: one protocol, engines chosen by the config alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float32]
TokenIds = list[list[int]]


class RewardEngine(Protocol):
    """One reward model, loaded."""

    def score(self, token_ids: TokenIds) -> Rewards:
        """Raw head outputs of whole texts, no activation.

        Args:
            token_ids: one list per text, special tokens included. Neighbours that share a prefix (chosen and
                rejected of one pair) let a decoder engine reuse it.

        Returns:
            (num_texts, num_labels) float32, in the order of the texts.
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
        use_gpu: whether Ray gave that process a GPU.
        memory_share: share of the whole GPU's memory for this engine alone.
        cpu_cache_bytes: KV cache of this engine on a CPU.
    """

    engine: Literal["vllm", "transformers"]
    dtype: str
    max_tokens: int
    threads: int = 1
    use_gpu: bool = False
    memory_share: float = 0.8
    cpu_cache_bytes: int = 2**30


class EngineLoader(Protocol):
    """Loads the reward model in a folder; :func:`load_engine`, or a test's double."""

    def __call__(self, model_path: str, options: EngineOptions) -> RewardEngine: ...


def load_engine(model_path: str, options: EngineOptions) -> RewardEngine:
    """Load a reward model with the engine that the options name. Runs on workers.

    Raises:
        UserError: the engine's package is not installed.
    """
    limit_threads(options.threads)
    if options.engine == "vllm":
        from pdray.scoring.vllm_engine import VllmEngine

        return VllmEngine(model_path, options)
    from pdray.scoring.transformers_engine import TransformersEngine

    return TransformersEngine(model_path, options)


def limit_threads(threads: int) -> None:
    """Keep this process to so many CPU threads; several actors share a node."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
