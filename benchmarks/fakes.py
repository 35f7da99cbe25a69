"""FAKE GPUs for a simulated cluster: an engine that waits, fails and draws rewards from a hash, and its tokenizer.

No model is behind any of it. What happens to a call is drawn from :class:`Fates` by its texts and by how often they
were tried, so the same seed gives the same failures whichever actor meets them, and rewards that depend on texts alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa

from pdray.engines.actor import ShardScorer
from pdray.engines.encode import Encoded, TextFacts
from pdray.engines.engine import EngineOptions, Rewards
from pdray.hashing import digest, hash64

Fate = Literal["well", "slow", "raises", "dies"]
SPREAD = 0.25  # σ of the logarithm of the service time
SLOWER = 10.0
FATES = "fates.json"
TRIES = "tries"
ENGINES = "engines"


@dataclass(frozen=True)
class Fates:
    """What may happen to a call of the engine.

    Attributes:
        seed: of the draws.
        seconds: mean service time of a text, of a GPU that is not slow.
        dies: share of the calls in which the process ends.
        raises: share that raise.
        slow: share that take :data:`SLOWER` times as long.
    """

    seed: int
    seconds: float
    dies: float = 0.0
    raises: float = 0.0
    slow: float = 0.0

    def draw(self, texts: str, attempt: int, num_texts: int) -> tuple[Fate, float]:
        """What happens to a call and how many seconds it takes.

        Args:
            texts: digest of what it reads.
            attempt: how often that was tried before.
            num_texts: in it.
        """
        rng = np.random.default_rng([self.seed, attempt, int(texts, 16) % 2**63])
        fates: tuple[Fate, ...] = ("dies", "raises", "slow", "well")
        shares = np.cumsum([self.dies, self.raises, self.slow])
        fate = fates[int(np.searchsorted(shares, rng.random(), side="right"))]
        seconds = self.seconds * num_texts * float(rng.lognormal(-(SPREAD**2) / 2, SPREAD))
        return fate, seconds * (SLOWER if fate == "slow" else 1.0)


def write_model(folder: Path, fates: Fates, num_labels: int) -> None:
    """A model folder that :class:`FakeEngine` loads; what happened to its calls is written beside it."""
    folder.mkdir(parents=True)
    for name in (TRIES, ENGINES):
        (folder.parent / name).mkdir()
    labels = {str(number): f"label {number}" for number in range(num_labels)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    (folder / FATES).write_text(json.dumps(asdict(fates)))


def happened(folder: Path) -> Counter[str]:
    """How often each fate was met by the calls of a model folder."""
    return Counter(word for path in (folder.parent / TRIES).iterdir() for word in path.read_text().split())


def engines_left(folder: Path) -> int:
    """Engines of a model folder whose processes are still there."""
    found = 0
    for path in (folder.parent / ENGINES).iterdir():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += psutil.Process(int(path.name)).status() != psutil.STATUS_ZOMBIE
    return found


class FakeEngine:
    """A reward engine without a model; see :class:`pdray.engines.engine.RewardEngine`."""

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        folder = Path(model_path)
        self._fates = Fates(**json.loads((folder / FATES).read_text()))
        self._num_labels = len(json.loads((folder / "config.json").read_text())["id2label"])
        self._tries = folder.parent / TRIES
        (folder.parent / ENGINES / str(os.getpid())).touch()

    def score(self, token_ids: Sequence[list[int]]) -> Rewards:
        """(num_texts, num_labels) float32 in [−1, 1), after the service time; or a failure.

        Raises:
            RuntimeError: drawn.
        """
        texts = [bytes(ids).decode() for ids in token_ids]
        name = digest(*texts)[:32]
        log = self._tries / name
        attempt = len(log.read_text().split()) if log.exists() else 0
        fate, seconds = self._fates.draw(name, attempt, len(texts))
        with log.open("a") as file:
            file.write(f"{fate} ")
        time.sleep(seconds)
        if fate == "dies":
            os._exit(1)
        if fate == "raises":
            raise RuntimeError("drawn by the simulation")
        return fake_rewards(texts, self._num_labels)


def fake_rewards(texts: list[str], num_labels: int) -> Rewards:
    """(num_texts, num_labels) float32 in [−1, 1) that no model gave, from hashes of the texts."""
    columns = [hash64(texts, f"label {label}") for label in range(num_labels)]
    rewards: Rewards = (np.stack(columns, axis=1) / 2.0**63 - 1).astype(np.float32)
    return rewards


class FakeEncoder:
    """A token for each byte of prompt and response."""

    def encode(self, texts: pa.Table) -> Encoded:
        """As :meth:`pdray.engines.encode.ModelEncoder.encode`."""
        rows = zip(texts["prompt"].to_pylist(), texts["response"].to_pylist(), strict=True)
        ids = [list(f"{prompt}\n{response}".encode()) for prompt, response in rows]
        num_tokens = np.array([len(one) for one in ids], np.int32)
        return Encoded([ids], [int(num_tokens.sum())], TextFacts(num_tokens, np.zeros(len(ids), bool)))


class FakeScorer(ShardScorer):
    """The pool's own actor but for its tokenizer: tens of processes would import Transformers, ten seconds each."""

    def _encoder(self) -> Any:
        return FakeEncoder()


def no_sample(*_: Any) -> pa.Table:
    """No text to compare with Transformers, which cannot load what is no model."""
    return pa.table({"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())})
