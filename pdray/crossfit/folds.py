"""How prompts are parted into folds, and the texts and pairs inside and outside of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.hashing import hash64
from pdray.schema import PAIRS, PROMPTS, TEXTS, text_type
from pdray.shards import ShardedFolder

BATCH_PAIRS = 512


def folds_of(prompts: pa.ChunkedArray, folds: int, repeat: int, seed: int) -> np.ndarray:
    """The fold of each prompt, (n,) int64 in [0, folds), by a seeded hash of its text alone.

    Args:
        prompts: n strings or lists of messages.
        folds: how many.
        repeat: another number parts the prompts anew.
        seed: of the run.
    """
    texts = prompts.to_pylist()
    if not pa.types.is_string(prompts.type):
        texts = [json.dumps(prompt, sort_keys=True, ensure_ascii=False) for prompt in texts]
    hashes: np.ndarray = hash64(texts, f"{seed}/crossfit/{repeat}") % np.uint64(folds)
    return hashes.astype(np.int64)


@dataclass(frozen=True)
class Split:
    """One fold that a policy judges; the others train it.

    Attributes:
        repeat: from 0.
        fold: from 0.
        folds: how many there are.
        seed: of the run.
    """

    repeat: int
    fold: int
    folds: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"policy-{self.repeat + 1}-{self.fold + 1}"

    def of_texts(self, corpus: ShardedFolder, shard: int) -> np.ndarray:
        """Which texts of a shard have a prompt of this fold, (texts,) bool."""
        prompts = corpus.read(PROMPTS, shard)["prompt"]
        row = corpus.read(TEXTS, shard, ["prompt_row"])["prompt_row"].to_numpy()
        inside: np.ndarray = folds_of(prompts, self.folds, self.repeat, self.seed)[row] == self.fold
        return inside


def splits(folds: int, repeats: int, seed: int) -> list[Split]:
    """All of them: in every repeat each prompt is judged once."""
    return [Split(repeat, fold, folds, seed) for repeat in range(repeats) for fold in range(folds)]


@dataclass(frozen=True)
class FoldTexts:
    """Chooses the texts that a policy judges; a row chooser of :class:`~pdray.engines.shards.TextPass`."""

    corpus: ShardedFolder
    split: Split

    def __call__(self, shard: int, num_texts: int) -> np.ndarray:
        """(n,) int64, ascending."""
        inside = self.split.of_texts(self.corpus, shard)
        assert len(inside) == num_texts, f"shard {shard}: {len(inside)} texts of {num_texts}"
        return np.flatnonzero(inside)

    def number(self, shard: int, num_texts: int) -> None:
        """Known once a shard is read."""


@dataclass(frozen=True)
class OtherPairs:
    """Reads the pairs that a policy is trained on: those outside of the fold; picklable.

    Attributes:
        corpus: its pairs.
        split: which fold is left out.
        conversational: whether texts are lists of messages.
    """

    corpus: ShardedFolder
    split: Split
    conversational: bool

    def __call__(self, shard: int) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """``pair_id``, ``aspect``, ``prompt``, ``chosen`` and ``rejected`` in batches, with a divergence of 0 each.

        Raises:
            UserError: a table is gone or damaged.
        """
        pairs = self.corpus.read(PAIRS, shard, ["pair_id", "aspect", "chosen_row", "rejected_row"])
        outside = ~self.split.of_texts(self.corpus, shard)[pairs["chosen_row"].to_numpy()]
        pairs, texts = pairs.filter(pa.array(outside)), self.corpus.read(TEXTS, shard)
        prompts, kind = self.corpus.read(PROMPTS, shard)["prompt"], text_type(self.conversational)
        for start in range(0, len(pairs), BATCH_PAIRS):
            some = pairs.slice(start, BATCH_PAIRS)
            chosen, rejected = texts.take(some["chosen_row"]), texts.take(some["rejected_row"])
            batch = pa.table(
                {
                    "pair_id": some["pair_id"],
                    "aspect": some["aspect"],
                    "prompt": prompts.take(chosen["prompt_row"]).cast(kind),
                    "chosen": chosen["response"].cast(kind),
                    "rejected": rejected["response"].cast(kind),
                }
            )
            yield batch.combine_chunks().to_batches()[0], np.zeros(len(batch))
