"""What the shards are planned from: a small summary of each block, merged over the corpus.

Every part is the same for any split of the rows into blocks and any order of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.corpus.check import PLACE, SIDES
from pdray.corpus.exchange import parts
from pdray.corpus.rows import canonical
from pdray.hashing import hash64

BUCKET_BITS = 16
BUCKETS = 2**BUCKET_BITS
SKETCH_SIZE = 4096


@dataclass(frozen=True)
class Summary:
    """Of the checked rows of a block or of several.

    Attributes:
        rows: all of them, those that are no pairs included.
        pairs: (BUCKETS,) int64, pairs by the first bits of the hash of their prompt.
        sketch: (≤ SKETCH_SIZE,) uint64, the smallest hashes of distinct (prompt, response), ascending.
        lows, highs: (κ,) float64, smallest and largest true rating of each aspect, ±inf where there is none.
        given_ids: whether any ``pair_id`` is the user's own.
    """

    rows: int
    pairs: np.ndarray
    sketch: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    given_ids: bool

    def merged(self, other: Summary) -> Summary:
        """The summary of both."""
        return Summary(
            self.rows + other.rows,
            self.pairs + other.pairs,
            np.unique(np.concatenate([self.sketch, other.sketch]))[:SKETCH_SIZE],
            np.minimum(self.lows, other.lows),
            np.maximum(self.highs, other.highs),
            self.given_ids or other.given_ids,
        )

    @property
    def distinct_texts(self) -> float:
        """Estimated number of distinct (prompt, response): exact below SKETCH_SIZE, else within some per cent.

        K-th smallest of uniform hashes: (K − 1) / h_K (Bar-Yossef et al., 2002).
        """
        if len(self.sketch) < SKETCH_SIZE:
            return float(len(self.sketch))
        return (SKETCH_SIZE - 1) / (float(self.sketch[-1]) / 2.0**64)

    @property
    def spans(self) -> np.ndarray:
        """(κ,) float64, largest rating minus smallest, 0 where there is none."""
        return np.where(np.isfinite(self.lows), self.highs - np.where(np.isfinite(self.lows), self.lows, 0.0), 0.0)


def empty_summary(num_aspects: int) -> Summary:
    """Of no rows."""
    return Summary(
        0,
        np.zeros(BUCKETS, np.int64),
        np.empty(0, np.uint64),
        np.full(num_aspects, np.inf),
        np.full(num_aspects, -np.inf),
        False,
    )


def summarise(block: pa.Table, aspects: list[str]) -> Summary:
    """The summary of a block of the checked schema.

    Args:
        block: rows.
        aspects: those with true ratings, sorted.
    """
    return reduce(Summary.merged, (_summary(part, aspects) for part in parts(block)))


def _summary(block: pa.Table, aspects: list[str]) -> Summary:
    if not len(block):
        return empty_summary(len(aspects))
    pairs = block.filter(pc.is_null(block["reason"]))
    extremes = np.array([_extremes(pairs, aspect) for aspect in aspects]).reshape(len(aspects), 2)
    return Summary(
        len(block),
        np.bincount(buckets(pairs[PLACE].to_numpy()), minlength=BUCKETS),
        _sketch(pairs),
        extremes[:, 0],
        extremes[:, 1],
        bool(pc.any(pairs["given_id"]).as_py()),
    )


def buckets(places: np.ndarray) -> np.ndarray:
    """The bucket of each place, its first BUCKET_BITS bits, (n,) int64."""
    return (places >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def _sketch(pairs: pa.Table) -> np.ndarray:
    prompts = [canonical(prompt) for prompt in pairs["prompt"].to_pylist()]
    hashes = [np.empty(0, np.uint64)]
    for side in SIDES:
        texts = pairs[side].to_pylist()
        keys = (f"{len(prompt)} {prompt}{canonical(text)}" for prompt, text in zip(prompts, texts, strict=True))
        hashes.append(hash64(keys, "texts"))
    return np.unique(np.concatenate(hashes))[:SKETCH_SIZE]


def _extremes(pairs: pa.Table, aspect: str) -> tuple[float, float]:
    found = [pc.min_max(pairs[f"score_{side}.{aspect}"]).as_py() for side in SIDES]
    lows = [side["min"] for side in found if side["min"] is not None]
    highs = [side["max"] for side in found if side["max"] is not None]
    return min(lows, default=np.inf), max(highs, default=-np.inf)
