"""Selection by the product's strategies, on arrays of one world: their keys, quantiles and cut, without the stage.

A stage would cost a minute of Ray's start for each run; that its radix passes give the same pairs as sorting is what
the tests of ``pdray.selection`` prove.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pdray.selection import strategies
from pdray.selection.divergence import num_kept, preference_divergence, quantile_rank, scale_margins
from pdray.selection.strategy import LogProbs, Statistic, Table, changes_places, sort_key


@dataclass(frozen=True)
class PairColumns:
    """The pairs of a world as a strategy reads them.

    Attributes:
        pair_ids: n ids.
        own: (n,) int, index of the aspect that labelled the pair.
        margins: (n, κ) float64 of the proxies (eq. 17).
        ratings: (n, κ) float64, true rating of the chosen response less that of the rejected one.
        tokens: (2, n) int64, lengths of the responses.
        overall: (n,) overall label, 1 for the chosen response, −1 for the rejected one, 0 for neither.
        unified: (n,) float64 of the reward model of all aspects together.
        known: log-probabilities; which models are the policy and the reference depends on the strategy.
        losses: (n,) float64 of cross-fitted trainings.
    """

    pair_ids: list[str]
    own: np.ndarray
    margins: np.ndarray
    ratings: np.ndarray
    tokens: np.ndarray
    overall: np.ndarray | None = None
    unified: np.ndarray | None = None
    known: LogProbs | None = None
    losses: np.ndarray | None = None

    def ids(self) -> list[str]:
        """n ids."""
        return self.pair_ids

    def lengths(self) -> np.ndarray:
        """(2, n) int64."""
        return self.tokens

    def own_margins(self) -> np.ndarray:
        """(n,) float64."""
        own: np.ndarray = self.margins[np.arange(len(self.own)), self.own]
        return own

    def mean_rating_gap(self) -> np.ndarray:
        """(n,) float64."""
        gap: np.ndarray = self.ratings.mean(axis=1)
        return gap

    def overall_gap(self) -> np.ndarray:
        """(n,)."""
        assert self.overall is not None, "made for the strategies that say so"
        return self.overall

    def unified_margins(self) -> np.ndarray:
        """(n,) float64."""
        assert self.unified is not None, "made for the strategies that say so"
        return self.unified

    def logps(self) -> LogProbs:
        """Of the models that the strategy names."""
        assert self.known is not None, "made for the strategies that say so"
        return self.known

    def validation_losses(self) -> np.ndarray:
        """(n,) float64."""
        assert self.losses is not None, "made for the strategies that say so"
        return self.losses


@dataclass(frozen=True)
class Selected:
    """What a strategy makes of the pairs.

    Attributes:
        rows: (m,) int, the kept pairs, the best first.
        swapped: (m,) bool, those whose responses change places.
        divergence: (n,) float64, PD of every pair.
        keys: (n,) float64, what the pairs are sorted by, the smallest first.
    """

    rows: np.ndarray
    swapped: np.ndarray
    divergence: np.ndarray
    keys: np.ndarray


def divergence_of(margins: np.ndarray, own: np.ndarray, gamma: float) -> np.ndarray:
    """PD of every pair (eq. 13-15), (n,) float64.

    Args:
        margins: (n, κ).
        own: (n,) int, the aspect that labelled each pair.
        gamma: γ, of the quantile over the pairs that an aspect did not label.
    """
    scaled = []
    for number, margin in enumerate(margins.T.astype(np.float32)):
        sizes = np.sort(np.abs(margin[own != number]))
        scaled.append(scale_margins(margin, float(sizes[quantile_rank(gamma, len(sizes)) - 1])))
    return preference_divergence(np.stack(scaled, axis=1), own)


def select(columns: PairColumns, name: str, budget: float, gamma: float, seed: int) -> Selected:
    """The pairs that a strategy keeps; ties go to the smaller id.

    Args:
        columns: of all pairs.
        name: of the strategy.
        budget: λ, share of the pairs; strategies that keep all pay no heed.
        gamma: γ.
        seed: of the random strategy.
    """
    strategy = strategies.find(name)
    margins = columns.ratings if strategy.margins == "ratings" else columns.margins
    divergence = divergence_of(margins, columns.own, gamma)
    bare = Table(divergence, seed, columns)
    statistics = {name: _statistic(one, bare) for name, one in strategy.statistics.items()}
    table = Table(divergence, seed, columns, statistics)
    keys = sort_key(strategy, table)
    order = np.lexsort((np.array(columns.pair_ids), keys))[: int(np.isfinite(keys).sum())]
    rows = order if strategy.keeps_all else order[: num_kept(budget, len(keys))]
    return Selected(rows, changes_places(strategy, table)[rows], divergence, keys)


def _statistic(statistic: Statistic, table: Table) -> float:
    values = np.sort(statistic.column(table))
    if statistic.kind == "quantile":
        return float(values[quantile_rank(statistic.level, len(values)) - 1])
    return float(values.mean() if statistic.kind == "mean" else values.std())
