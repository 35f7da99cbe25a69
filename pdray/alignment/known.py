"""What the reference gives to pairs whose responses the stage ``logprobs`` has read with the same model.

    <run>/shared/known-<hash8>/part-00017.parquet    the pairs of a shard: hash of the tokens, both log-probabilities

A pair is known where both its responses were read whole, as the training reads them. The engine that read them is not
that of the training, so the training compares some with its own before it believes the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.alignment.inputs import INDEX, tokens_path
from pdray.alignment.reference import FIRST_LOSS_TOLERANCE, ReferenceStore, look_up
from pdray.config import RunConfig
from pdray.hashing import hash64
from pdray.identity import model_identity
from pdray.schema import PAIRS, TEXTS
from pdray.selection.check import find_strategy
from pdray.shards import ShardedFolder, shard_name

COMPARED = 32  # pairs that the training computes itself as well
Known = tuple[np.ndarray, np.ndarray]


def known_model(config: RunConfig) -> str | None:
    """The model of ``logprobs`` that is ``alignment.policy`` before its training; None where there is none.

    A strategy that labels pairs anew has none: which response is the chosen one is then no longer the corpus' word.
    """
    if config.logprobs is None or config.alignment is None or find_strategy(config.selection.strategy).label:
        return None
    policy = model_identity(config.alignment.policy)
    same = (name for name, folder in config.logprobs.folders.items() if model_identity(folder) == policy)
    return next(same, None)


@dataclass(frozen=True)
class KnownWriter:
    """Finds the known pairs of a shard; picklable.

    Attributes:
        corpus: has the text rows of every pair.
        logprobs: row-aligned with the corpus' texts.
        model: name of the column.
        inputs: the tokenised pairs.
        seed: of their order.
        max_tokens: to which a pair was cut.
        target: where the parts go.
    """

    corpus: ShardedFolder
    logprobs: ShardedFolder
    model: str
    inputs: ShardedFolder
    seed: int
    max_tokens: int
    target: ReferenceStore

    def __call__(self, shard: int) -> int:
        """Write the part of a shard where it is missing or damaged.

        Returns:
            how many pairs are known.

        Raises:
            UserError: a table is gone or damaged.
        """
        name = f"part-{shard_name(shard)}.parquet"
        if (self.target.folder / name).exists() and self.target.is_sound(name):
            return len(self.target.read([name])[0])
        keys, logps = self._found(shard)
        self.target.write(name, keys, logps)
        return len(keys)

    def _found(self, shard: int) -> Known:
        index = self.inputs.read(INDEX, shard)
        if not len(index):
            return np.empty(0, np.uint64), np.empty((0, 2), np.float32)
        pairs = self.corpus.read(PAIRS, shard, ["pair_id", "chosen_row", "rejected_row"])
        hashes = hash64(pairs["pair_id"].to_pylist(), salt=f"alignment {self.seed}")
        by_hash = np.argsort(hashes)
        rows = by_hash[np.searchsorted(hashes[by_hash], index["order"].to_numpy())]
        texts = self.logprobs.read(TEXTS, shard)
        responses = np.stack([pairs[f"{side}_row"].to_numpy()[rows] for side in ("chosen", "rejected")], axis=1)
        logps = texts[f"logp.{self.model}"].to_numpy()[responses]
        cut = texts["truncated"].to_numpy(zero_copy_only=False)[responses].any(axis=1)
        as_long = (texts["num_tokens"].to_numpy()[responses] == self._lengths(shard)).all(axis=1)
        # A pair that was cut fills max_tokens.
        whole = as_long & ~cut & (index["tokens"].to_numpy() < self.max_tokens) & np.isfinite(logps).all(axis=1)
        return index["key"].to_numpy()[whole], logps[whole]

    def _lengths(self, shard: int) -> np.ndarray:
        """(n, 2) tokens of both responses of each pair."""
        with pa.memory_map(str(tokens_path(self.inputs, shard))) as source, pa.ipc.open_stream(source) as stream:
            parts = [[np.diff(batch[f"{side}_ids"].offsets) for side in ("chosen", "rejected")] for batch in stream]
        return np.concatenate([np.stack(part, axis=1) for part in parts])


def believed(
    keys: np.ndarray, known: Known, compute: Callable[[np.ndarray], np.ndarray], beta: float
) -> tuple[Known, float | None]:
    """What is known, where it is near enough to what the training computes itself.

    The policy margin M of no compared pair may be off by more than the first loss allows.

    Args:
        keys: (n,) uint64, of the pairs in the order of training.
        known: (m,) uint64, ascending, and (m, 2) float32, nats.
        compute: positions -> (len, 2) float32, by all workers together.
        beta: β.

    Returns:
        ``known``, or none of it; and the largest error of M among some pairs, None where no pair is known.
    """
    hits = np.flatnonzero(np.isfinite(look_up(keys, *known)[:, 0]))[:COMPARED]
    if not len(hits):
        return known, None
    off = look_up(keys[hits], *known).astype(np.float64) - compute(hits)
    error = float(beta * np.abs(off[:, 0] - off[:, 1]).max())
    if error <= 2 * FIRST_LOSS_TOLERANCE:
        return known, error
    return (known[0][:0], known[1][:0]), error


def num_known(keys: np.ndarray, known: Known) -> int:
    """How many of some pairs are known."""
    return int(np.isfinite(look_up(keys, *known)[:, 0]).sum())
