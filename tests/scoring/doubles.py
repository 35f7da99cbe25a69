"""Reward engines for tests: deterministic, wrong on purpose, or mortal."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from pdray.scoring.engine import EngineOptions, Rewards, TokenIds
from pdray.scoring.transformers_engine import TransformersEngine


class HashEngine:
    """A reward in [-1, 1) that depends on the model's folder name and the tokens alone."""

    num_labels = 1

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        self.name = Path(model_path).name

    def score(self, token_ids: TokenIds) -> Rewards:
        return np.array(
            [[self.reward(ids, label) for label in range(self.num_labels)] for ids in token_ids], np.float32
        )

    def reward(self, ids: list[int], label: int = 0) -> float:
        digest = hashlib.sha256(f"{self.name} {label} {ids}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**31 - 1


class TwoHeadEngine(HashEngine):
    """One model that scores two aspects."""

    num_labels = 2


class SquashedEngine(TransformersEngine):
    """Forgets to switch the activation off, as a pooling engine does by default."""

    def score(self, token_ids: TokenIds) -> Rewards:
        return np.asarray(1 / (1 + np.exp(-super().score(token_ids))), dtype=np.float32)


class MortalEngine(TransformersEngine):
    """Takes its process down once, in the middle of the pass; the file beside the model says that it did."""

    calls = 0

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        super().__init__(model_path, options)
        self.grave = Path(model_path).parent / "died"

    def score(self, token_ids: TokenIds) -> Rewards:
        MortalEngine.calls += 1
        if MortalEngine.calls > 4 and not self.grave.exists():
            self.grave.touch()
            os._exit(1)
        return super().score(token_ids)
