"""Reward engines for tests: wrong on purpose, mortal, or counting. None of them is what a run would use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from pdray.engines.engine import EngineOptions, Rewards, TokenIds
from pdray.engines.transformers_engine import TransformersEngine

POISON_WORD = "7"
POISON = 41  # its id in every tiny tokenizer


def poisoned(token_ids: TokenIds) -> bool:
    return any(POISON in ids for ids in token_ids)


class SquashedEngine(TransformersEngine):
    """Forgets to switch the activation off, as a pooling engine does by default."""

    def score(self, token_ids: TokenIds) -> Rewards:
        return np.asarray(1 / (1 + np.exp(-super().score(token_ids))), dtype=np.float32)


class CountingEngine(TransformersEngine):
    """Writes down, beside the model, how many texts it was given."""

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        super().__init__(model_path, options)
        self.log = Path(model_path).parent / "counted"

    def score(self, token_ids: TokenIds) -> Rewards:
        with open(self.log, "a") as log:
            log.write(f"{len(token_ids)}\n")
        return super().score(token_ids)


class RaisingEngine(TransformersEngine):
    """Refuses every batch that holds the poisoned text."""

    def score(self, token_ids: TokenIds) -> Rewards:
        if poisoned(token_ids):
            raise RuntimeError("a text that this engine cannot read")
        return super().score(token_ids)


class KillingEngine(TransformersEngine):
    """Takes its process down with every batch that holds the poisoned text, as a crash in native code does."""

    def score(self, token_ids: TokenIds) -> Rewards:
        if poisoned(token_ids):
            os._exit(1)
        return super().score(token_ids)


class HangingEngine(TransformersEngine):
    """Never comes back from a batch that holds the poisoned text."""

    def score(self, token_ids: TokenIds) -> Rewards:
        if poisoned(token_ids):
            time.sleep(10_000)
        return super().score(token_ids)


class HangingOnceEngine(TransformersEngine):
    """Never comes back from one call in the middle of the pass; the file beside the model says that it happened."""

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        super().__init__(model_path, options)
        self.calls = 0
        self.mark = Path(model_path).parent / "hung"

    def score(self, token_ids: TokenIds) -> Rewards:
        self.calls += 1
        if self.calls > 2 and not self.mark.exists():
            self.mark.touch()
            time.sleep(10_000)
        return super().score(token_ids)


class MortalEngine(TransformersEngine):
    """Takes its process down once, in the middle of the pass; the file beside the model says that it did."""

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        super().__init__(model_path, options)
        self.calls = 0
        self.grave = Path(model_path).parent / "died"

    def score(self, token_ids: TokenIds) -> Rewards:
        self.calls += 1
        if self.calls > 2 and not self.grave.exists():
            self.grave.touch()
            os._exit(1)
        return super().score(token_ids)


class SpoiltEngine(TransformersEngine):
    """Raises for the poisoned text, and for everything after it, as a GPU does after an assertion."""

    spoilt = False

    def score(self, token_ids: TokenIds) -> Rewards:
        self.spoilt = self.spoilt or poisoned(token_ids)
        if self.spoilt:
            raise RuntimeError("the device is in an error state")
        return super().score(token_ids)


class BrokenEngine(TransformersEngine):
    """Loads, answers the comparison, and raises for everything after it."""

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        super().__init__(model_path, options)
        self.calls = 0

    def score(self, token_ids: TokenIds) -> Rewards:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("the device is gone")
        return super().score(token_ids)
