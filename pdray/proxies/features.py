"""Features of the texts of used pairs: written shard by shard, read back as differences."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pdray.margins import final_margin
from pdray.rewards import RewardHead
from pdray.schema import FEATURES, features_schema
from pdray.shards import ShardedFolder

if TYPE_CHECKING:
    from pdray.engines.encode import TextFacts

READERS = 8
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class RowsOfPairs:
    """Chooses the texts of some pairs; picklable, a row chooser of :class:`pdray.engines.shards.TextPass`.

    Attributes:
        rows: shard -> (n,) int64 rows in ``corpus/texts``, ascending.
    """

    rows: dict[int, np.ndarray]

    def __call__(self, shard: int, num_texts: int) -> np.ndarray:
        """As :meth:`rows_of`, whatever the number of texts."""
        del num_texts
        return self.rows_of(shard)

    def number(self, shard: int, num_texts: int) -> int:
        """How many those are."""
        del num_texts
        return len(self.rows_of(shard))

    def rows_of(self, shard: int) -> np.ndarray:
        """The rows of a shard."""
        return self.rows.get(shard, np.empty(0, np.int64))

    @staticmethod
    def of(tables: Iterable[pa.Table]) -> RowsOfPairs:
        """The texts of all pairs of some tables of :func:`pdray.proxies.pairs.candidates`, each once."""
        pairs = pa.concat_tables([table.select(["shard", "chosen_row", "rejected_row"]) for table in tables])
        shards = np.tile(pairs["shard"].to_numpy(), 2)
        rows = np.concatenate([pairs["chosen_row"].to_numpy(), pairs["rejected_row"].to_numpy()])
        return RowsOfPairs(
            {int(shard): np.unique(rows[shards == shard]).astype(np.int64) for shard in np.unique(shards)}
        )

    @property
    def count(self) -> int:
        """Texts of all shards."""
        return sum(map(len, self.rows.values()))


@dataclass(frozen=True)
class FeatureWriter:
    """Makes the features of a shard, see :func:`pdray.schema.features_schema`; a writer of ``TextPass``."""

    def __call__(
        self, shard: int, rows: np.ndarray, outputs: np.ndarray, facts: TextFacts
    ) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """The table, and no facts of its own.

        Args:
            shard: its number.
            rows: (n,) int, ascending.
            outputs: (n, H) float32, NaN for a text that could not be read.
            facts: lengths of the same texts.
        """
        schema = features_schema(outputs.shape[1])
        values = pa.array(outputs.reshape(-1), pa.float32())
        columns = [
            pa.array(rows, pa.int32()),
            pa.FixedSizeListArray.from_arrays(values, outputs.shape[1]),
            pa.array(facts.num_tokens, pa.int32()),
            pa.array(facts.truncated, pa.bool_()),
        ]
        return {FEATURES: pa.Table.from_arrays(columns, schema=schema)}, {}


@dataclass(frozen=True)
class PairFeatures:
    """The features of n pairs, whose t distinct texts stand once.

    Attributes:
        values: (t, H) float32.
        chosen, rejected: (n,) int64, rows of ``values``.
        length_difference: (n,) int64, tokens of the whole responses.
    """

    values: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    length_difference: np.ndarray

    def finite(self) -> np.ndarray:
        """Which pairs have features of both texts, (n,) bool."""
        known = np.isfinite(self.values).all(1)
        both: np.ndarray = known[self.chosen] & known[self.rejected]
        return both

    def take(self, pairs: np.ndarray) -> PairFeatures:
        """Some of the pairs, by a mask or by positions, with their texts alone."""
        rows, places = np.unique(np.stack([self.chosen[pairs], self.rejected[pairs]]), return_inverse=True)
        chosen, rejected = places.reshape(2, -1)
        return PairFeatures(self.values[rows], chosen, rejected, self.length_difference[pairs])

    @property
    def difference(self) -> np.ndarray:
        """(n, H) float64."""
        difference: np.ndarray = self.values[self.chosen].astype(np.float64) - self.values[self.rejected]
        return difference

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature over the texts of both sides, both (H,) float64.

        A feature that never changes gets a deviation of 1.
        """
        share = np.bincount(np.concatenate([self.chosen, self.rejected]), minlength=len(self.values))
        share = share / share.sum()
        mean = share @ self.values
        centred = self.values - mean
        spread = np.sqrt(np.einsum("t,th,th->h", share, centred, centred))
        spread[self.values.min(0) == self.values.max(0)] = 1.0
        return mean, spread


def joined(one: PairFeatures, other: PairFeatures) -> PairFeatures:
    """The pairs of both, one after the other."""
    start = len(one.values)
    return PairFeatures(
        np.concatenate([one.values, other.values]),
        np.concatenate([one.chosen, start + other.chosen]),
        np.concatenate([one.rejected, start + other.rejected]),
        np.concatenate([one.length_difference, other.length_difference]),
    )


def read_pairs(features: ShardedFolder, pairs: pa.Table, num_features: int, first: int = 0) -> PairFeatures:
    """The features of some pairs, in their order.

    Args:
        features: shards of the proxies stage.
        pairs: ``shard``, ``chosen_row`` and ``rejected_row``.
        num_features: H.
        first: where they begin among the features of a text.
    """
    texts = np.stack([np.tile(pairs["shard"].to_numpy(), 2), np.concatenate([pairs[f"{s}_row"] for s in SIDES])], 1)
    distinct, places = np.unique(texts.astype(np.int64), axis=0, return_inverse=True)
    values, tokens = np.empty((len(distinct), num_features), np.float32), np.empty(len(distinct), np.int64)

    def read(shard: int) -> None:
        table = features.read(FEATURES, shard, ["row", "feature", "num_tokens"]).combine_chunks()
        known, lengths = table["row"].to_numpy(), table["num_tokens"].to_numpy()
        width = table.schema.field("feature").type.list_size
        matrix = table["feature"].chunk(0).flatten().to_numpy().reshape(-1, width)[:, first : first + num_features]
        here = np.flatnonzero(distinct[:, 0] == shard)
        rows = distinct[here, 1]
        found = np.searchsorted(known, rows)
        assert (known[np.minimum(found, len(known) - 1)] == rows).all(), f"shard {shard} lacks features that are used"
        values[here], tokens[here] = matrix[found], lengths[found]

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, np.unique(distinct[:, 0]).tolist()))
    chosen, rejected = places.reshape(2, -1)
    return PairFeatures(values, chosen, rejected, tokens[chosen] - tokens[rejected])


def final_margins(pairs: PairFeatures, head: RewardHead, penalty: float) -> np.ndarray:
    """Δr − ρΔlen (eq. 17) of each pair under a head with one output, (n,) float64."""
    reward = head.rewards(pairs.values)[:, 0].astype(np.float64)
    return final_margin(reward[pairs.chosen] - reward[pairs.rejected], pairs.length_difference, penalty)
