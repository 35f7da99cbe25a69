"""The pairs of a shard as narrow columns: margins, divergence and the key that they are ordered by.

Every pass reads its columns anew: rewards are looked up by row number inside the shard, which costs less than keeping
margins between passes would, and holds nothing in memory that grows with the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.aspects import UNIFIED
from pdray.errors import UserError
from pdray.schema import PAIRS, TEXTS
from pdray.selection import strategies
from pdray.selection.divergence import preference_divergence, reward_margins, scale_margins
from pdray.selection.groups import GroupBy, length_groups, named_groups
from pdray.selection.radix import ordered_bits, starts_with
from pdray.selection.strategy import LogProbs, Table, changes_places, sort_key
from pdray.shards import ShardedFolder

OVERALL = {"chosen": 1.0, "rejected": -1.0, "equal": 0.0, None: np.nan}


@dataclass(frozen=True)
class Margins:
    """Margins of the pairs of a shard.

    Attributes:
        own: (n,) int64, index of the aspect that labelled the pair.
        values: per aspect (n,) float32, Δr̂ − ρΔlen; NaN or infinite where it is not known.
    """

    own: np.ndarray
    values: list[np.ndarray]


@dataclass(frozen=True)
class PairSource:
    """Where pairs and rewards come from; picklable, read in workers.

    Attributes:
        corpus: has ``pairs``.
        scores: has ``texts``, row-aligned with those of the corpus.
        penalties: aspect -> ρ, aspects sorted.
        logprobs: likewise, for strategies that read log-probabilities; else None.
        unified: ρ of the reward model of all aspects together; None where there is none.
        crossfit: has ``pairs`` with a loss each, row-aligned with those of the corpus; None where no strategy asks.
        content: digest of the rewards and log-probabilities; "" where their markers do not tell.
    """

    corpus: ShardedFolder
    scores: ShardedFolder
    penalties: dict[str, float]
    logprobs: ShardedFolder | None = None
    unified: float | None = None
    crossfit: ShardedFolder | None = None
    content: str = ""

    @property
    def num_shards(self) -> int:
        """S."""
        return self.corpus.num_shards

    def ids(self, shard: int) -> pa.Array:
        """``pair_id`` of each pair of a shard, one string array."""
        return one_array(self.corpus.read(PAIRS, shard, ["pair_id"])["pair_id"])

    def lengths(self, shard: int) -> np.ndarray:
        """(2, n) int64, tokens of the chosen and rejected responses of a shard.

        Raises:
            UserError: a pair's text has no row among the scores.
        """
        pairs = self.corpus.read(PAIRS, shard, ["chosen_row", "rejected_row"])
        tokens = self.scores.read(TEXTS, shard, ["num_tokens"])["num_tokens"].to_numpy()
        lengths: np.ndarray = tokens[np.stack(_rows(self.scores, shard, pairs, len(tokens)))].astype(np.int64)
        return lengths

    def logps(self, shard: int) -> LogProbs:
        """Log-probabilities of the responses of a shard.

        Raises:
            UserError: a pair's text has no row among them.
        """
        assert self.logprobs is not None, "the strategy says that it reads them"
        pairs = self.corpus.read(PAIRS, shard, ["chosen_row", "rejected_row"])
        texts = self.logprobs.read(TEXTS, shard)
        rows = np.stack(_rows(self.logprobs, shard, pairs, len(texts)))
        policy, reference = (
            texts[f"logp.{name}" if f"logp.{name}" in texts.column_names else "logp.policy"].to_numpy()[rows]
            for name in ("policy", "reference")
        )
        tokens = texts["num_tokens"].to_numpy()[rows].astype(np.int64)
        return LogProbs(policy.astype(np.float64), reference.astype(np.float64), tokens)

    def margins(self, shard: int) -> Margins:
        """The margins of every pair of a shard.

        Raises:
            UserError: a pair's text has no row among the scores.
        """
        pairs = self.corpus.read(PAIRS, shard, ["aspect", "chosen_row", "rejected_row"])
        return Margins(self.own(pairs["aspect"]), self._reward_margins(shard, pairs, self.penalties))

    def _reward_margins(self, shard: int, pairs: pa.Table, penalties: dict[str, float]) -> list[np.ndarray]:
        scores = self.scores.read(TEXTS, shard, [*(f"reward.{name}" for name in penalties), "num_tokens"])
        chosen, rejected = _rows(self.scores, shard, pairs, len(scores))
        tokens = scores["num_tokens"].to_numpy()
        lengths = tokens[chosen] - tokens[rejected]
        return [
            reward_margins(scores[f"reward.{name}"].to_numpy(), chosen, rejected, lengths, penalty)
            for name, penalty in penalties.items()
        ]

    def own_margins(self, shard: int) -> np.ndarray:
        """(n,) float64, of each pair the margin of the aspect that labelled it."""
        margins = self.margins(shard)
        own: np.ndarray = np.stack(margins.values)[margins.own, np.arange(len(margins.own))].astype(np.float64)
        return own

    def unified_margins(self, shard: int) -> np.ndarray:
        """(n,) float64, margins of the reward model of all aspects together."""
        assert self.unified is not None, "the strategy says that it reads them"
        pairs = self.corpus.read(PAIRS, shard, ["chosen_row", "rejected_row"])
        (margins,) = self._reward_margins(shard, pairs, {UNIFIED: self.unified})
        return margins.astype(np.float64)

    def validation_losses(self, shard: int) -> np.ndarray:
        """(n,) float64, of each pair the loss of cross-fitted policies."""
        assert self.crossfit is not None, "the strategy says that it reads them"
        losses: np.ndarray = self.crossfit.read(PAIRS, shard, ["loss"])["loss"].to_numpy()
        return losses

    def mean_rating_gap(self, shard: int) -> np.ndarray:
        """(n,) float64, mean true rating over the aspects, of the chosen response less that of the rejected one.

        NaN where a rating is not known.
        """
        names = [[f"score_{side}.{aspect}" for aspect in self.penalties] for side in ("chosen", "rejected")]
        pairs = self.corpus.read(PAIRS, shard, [*names[0], *names[1]])
        sides = [np.stack([pairs[name].to_numpy().astype(np.float64) for name in one]).mean(axis=0) for one in names]
        # Means that are equal but for rounding are equal.
        gap: np.ndarray = np.round(sides[0] - sides[1], 9)
        return gap

    def overall_gap(self, shard: int) -> np.ndarray:
        """(n,) float64, 1, −1, 0 or NaN for an overall label of chosen, rejected, equal or none.

        Raises:
            UserError: the corpus has other labels.
        """
        labels = self.corpus.read(PAIRS, shard, ["overall"])["overall"].to_pylist()
        if others := sorted(set(labels) - set(OVERALL), key=str):
            raise UserError(
                f"the column overall of the corpus says {others[0]!r}, but a strategy that labels pairs by it needs "
                "chosen, rejected or equal; write one of these, or choose another strategy"
            )
        return np.array([OVERALL[label] for label in labels], np.float64)

    def groups(self, shard: int, by: GroupBy) -> pa.Array:
        """Name of the group of each pair, n strings; lengths are those of the chosen response."""
        if by == "length":
            return length_groups(self.lengths(shard)[0])
        return named_groups(self.corpus.read(PAIRS, shard, [by])[by], by)

    def own(self, labels: pa.ChunkedArray) -> np.ndarray:
        """(n,) int64, index of the aspect that labelled each pair."""
        own = pc.index_in(labels, value_set=pa.array(list(self.penalties), pa.string()))
        assert not own.null_count, "pairs of an aspect that was not scored"
        indices: np.ndarray = own.to_numpy().astype(np.int64)
        return indices


def _rows(texts: ShardedFolder, shard: int, pairs: pa.Table, num_texts: int) -> tuple[np.ndarray, np.ndarray]:
    chosen, rejected = pairs["chosen_row"].to_numpy(), pairs["rejected_row"].to_numpy()
    if len(pairs) and max(chosen.max(), rejected.max()) >= num_texts:
        raise UserError(f"{texts.table(TEXTS, shard)} lacks rows that pairs name; run again, and it is made anew")
    return chosen, rejected


@dataclass(frozen=True)
class ShardColumns:
    """The :class:`~pdray.selection.strategy.Columns` of a shard."""

    source: PairSource
    shard: int

    def ids(self) -> list[str]:
        """See :class:`~pdray.selection.strategy.Columns`, as for the others."""
        ids: list[str] = self.source.ids(self.shard).to_pylist()
        return ids

    def lengths(self) -> np.ndarray:
        """(2, n) int64."""
        return self.source.lengths(self.shard)

    def own_margins(self) -> np.ndarray:
        """(n,) float64."""
        return self.source.own_margins(self.shard)

    def unified_margins(self) -> np.ndarray:
        """(n,) float64."""
        return self.source.unified_margins(self.shard)

    def logps(self) -> LogProbs:
        """Of n pairs."""
        return self.source.logps(self.shard)

    def validation_losses(self) -> np.ndarray:
        """(n,) float64."""
        return self.source.validation_losses(self.shard)

    def mean_rating_gap(self) -> np.ndarray:
        """(n,) float64."""
        return self.source.mean_rating_gap(self.shard)

    def overall_gap(self) -> np.ndarray:
        """(n,) float64."""
        return self.source.overall_gap(self.shard)


@dataclass(frozen=True)
class RatingSource(PairSource):
    """The same pairs with their true ratings in place of rewards, without length penalty."""

    def margins(self, shard: int) -> Margins:
        """Differences of the true ratings, NaN where one is not known."""
        names = [f"score_{side}.{aspect}" for aspect in self.penalties for side in ("chosen", "rejected")]
        pairs = self.corpus.read(PAIRS, shard, ["aspect", *names])
        ratings = [pairs[name].to_numpy().astype(np.float64) for name in names]
        differences = zip(ratings[::2], ratings[1::2], strict=True)
        values = [(chosen - rejected).astype(np.float32) for chosen, rejected in differences]
        return Margins(self.own(pairs["aspect"]), values)


@dataclass(frozen=True)
class Ordering:
    """How the pairs are ordered: by the strategy's key, then by ``pair_id``.

    Attributes:
        source: the pairs.
        quantiles: aspect -> q of eq. 13, in the order of the penalties.
        strategy: name of the key; see :mod:`pdray.selection.strategies`.
        seed: of random keys.
        weights: per aspect, in the order of the penalties, by how much its margin counts; None is 1 for each.
        statistics: those that the strategy asks for.
        column: name of a statistic by whose column the pairs are ordered in place of the key; None for the key.
        quota: groups that have a budget each; None is one budget.
        group: the only one whose pairs have a key; None is all of them.
    """

    source: PairSource
    quantiles: dict[str, float]
    strategy: str
    seed: int
    weights: tuple[float, ...] | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)
    column: str | None = None
    quota: GroupBy | None = None
    group: str | None = None

    @property
    def num_shards(self) -> int:
        """S."""
        return self.source.num_shards

    def divergence(self, shard: int) -> tuple[Margins, np.ndarray]:
        """Scaled margins, per aspect (n,) float64 (eq. 14), and PD, (n,) float64 (eq. 15)."""
        margins = self.source.margins(shard)
        quantiles = self.quantiles.values()
        scaled = [scale_margins(values, quantile) for values, quantile in zip(margins.values, quantiles, strict=True)]
        return Margins(margins.own, scaled), preference_divergence(np.stack(scaled, axis=1), margins.own, self.weights)

    def keys(self, shard: int, divergence: np.ndarray) -> np.ndarray:
        """(n,) float64, NaN where the divergence is, and outside the group."""
        strategy = strategies.find(self.strategy)
        if self.column is not None:
            strategy = replace(strategy, key=strategy.statistics[self.column].column)
        keys = sort_key(strategy, self._table(shard, divergence))
        if self.group is None:
            return keys
        inside = pc.equal(self.groups(shard), self.group).to_numpy(zero_copy_only=False)
        return np.where(inside, keys, np.nan)

    def groups(self, shard: int) -> pa.Array | None:
        """The group of each pair under the quota, n strings; None without a quota."""
        return None if self.quota is None else self.source.groups(shard, self.quota)

    def changes_places(self, shard: int, divergence: np.ndarray) -> np.ndarray:
        """(n,) bool, whether chosen and rejected change places where the pair is kept."""
        return changes_places(strategies.find(self.strategy), self._table(shard, divergence))

    def _table(self, shard: int, divergence: np.ndarray) -> Table:
        return Table(divergence, self.seed, ShardColumns(self.source, shard), self.statistics)

    def bits(self, shard: int) -> np.ndarray:
        """The key of each pair as (n,) uint64 that sort alike; see :func:`~pdray.selection.radix.ordered_bits`."""
        return ordered_bits(self.keys(shard, self.divergence(shard)[1]))

    def between(self, shard: int, low: int, high: int, prefix: bytes = b"") -> tuple[np.ndarray, pa.Array]:
        """Bits and ids of the pairs whose bits lie in [low, high] and whose id begins with ``prefix``."""
        return within(self.bits(shard), lambda: self.source.ids(shard), low, high, prefix)


def within(
    bits: np.ndarray, ids: Callable[[], pa.Array], low: int, high: int, prefix: bytes
) -> tuple[np.ndarray, pa.Array]:
    """Bits and ids of the pairs whose bits lie in [low, high] and whose id begins with ``prefix``.

    Args:
        bits: (n,) uint64.
        ids: reads the n ids, where any are needed.
        low, high: bits.
        prefix: bytes, which may end inside a character.
    """
    inside = (bits >= np.uint64(low)) & (bits <= np.uint64(high))
    if not inside.any():
        return bits[:0], pa.array([], pa.string())
    found = ids().filter(pa.array(inside))
    matching = starts_with(found, prefix)
    return bits[inside][matching], found.filter(pa.array(matching))


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column of a shard as one array."""
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
