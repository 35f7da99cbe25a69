"""Features of the texts of used pairs: written shard by shard, read back as differences."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pdray.margins import final_margin
from pdray.schema import FEATURES, features_schema
from pdray.shards import ShardedFolder

if TYPE_CHECKING:
    from pdray.engines.encode import TextFacts

READERS = 8


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
    """Makes the features of a shard, see :func:`pdray.schema.features_schema`; a writer of ``TextPass``.

    Attributes:
        scale: of :class:`pdray.proxies.backbone.Backbone`.
    """

    scale: float

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
        values = pa.array((outputs * np.float32(self.scale)).reshape(-1), pa.float32())
        columns = [
            pa.array(rows, pa.int32()),
            pa.FixedSizeListArray.from_arrays(values, outputs.shape[1]),
            pa.array(facts.num_tokens, pa.int32()),
            pa.array(facts.truncated, pa.bool_()),
        ]
        return {FEATURES: pa.Table.from_arrays(columns, schema=schema)}, {}


@dataclass(frozen=True)
class PairFeatures:
    """The features of n pairs.

    Attributes:
        chosen, rejected: (n, H) float32.
        length_difference: (n,) int64, tokens of the whole responses.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    length_difference: np.ndarray

    def finite(self) -> np.ndarray:
        """Which pairs have features of both texts, (n,) bool."""
        known: np.ndarray = np.isfinite(self.chosen).all(1) & np.isfinite(self.rejected).all(1)
        return known

    def take(self, rows: np.ndarray) -> PairFeatures:
        """Some of the pairs, by a mask or by positions."""
        return PairFeatures(self.chosen[rows], self.rejected[rows], self.length_difference[rows])

    @property
    def difference(self) -> np.ndarray:
        """(n, H) float64."""
        difference: np.ndarray = self.chosen.astype(np.float64) - self.rejected
        return difference

    def spread(self) -> np.ndarray:
        """(H,) float64, standard deviation of each feature over all texts; 1 for a feature that never changes."""
        count = 2 * len(self.chosen)
        mean = (self.chosen.sum(0, dtype=np.float64) + self.rejected.sum(0, dtype=np.float64)) / count
        variance = sum(((side - mean) ** 2).sum(0) for side in (self.chosen, self.rejected)) / count
        spread: np.ndarray = np.sqrt(variance)
        spread[spread == 0] = 1.0
        return spread


def joined(*parts: PairFeatures) -> PairFeatures:
    """The pairs of several, one after the other."""
    return PairFeatures(
        np.concatenate([part.chosen for part in parts]),
        np.concatenate([part.rejected for part in parts]),
        np.concatenate([part.length_difference for part in parts]),
    )


def read_pairs(features: ShardedFolder, pairs: pa.Table, num_features: int) -> PairFeatures:
    """The features of some pairs, in their order.

    Args:
        features: shards of the proxies stage.
        pairs: ``shard``, ``chosen_row`` and ``rejected_row``.
        num_features: H.
    """
    shards = pairs["shard"].to_numpy()
    sides = {name: pairs[f"{name}_row"].to_numpy() for name in ("chosen", "rejected")}
    values = {name: np.empty((len(pairs), num_features), np.float32) for name in sides}
    tokens = {name: np.empty(len(pairs), np.int64) for name in sides}

    def read(shard: int) -> None:
        table = features.read(FEATURES, shard, ["row", "feature", "num_tokens"]).combine_chunks()
        known, lengths = table["row"].to_numpy(), table["num_tokens"].to_numpy()
        matrix = table["feature"].chunk(0).flatten().to_numpy().reshape(-1, num_features)
        here = np.flatnonzero(shards == shard)
        for name, rows in sides.items():
            places = np.searchsorted(known, rows[here])
            assert (known[places] == rows[here]).all(), f"shard {shard} lacks features of pairs that are used"
            values[name][here], tokens[name][here] = matrix[places], lengths[places]

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, np.unique(shards).tolist()))
    return PairFeatures(values["chosen"], values["rejected"], tokens["chosen"] - tokens["rejected"])


def final_margins(pairs: PairFeatures, head: np.ndarray, penalty: float) -> np.ndarray:
    """Δr − ρΔlen (eq. 17) of each pair under a head, (n,) float64."""
    return final_margin(pairs.difference @ head, pairs.length_difference, penalty)
