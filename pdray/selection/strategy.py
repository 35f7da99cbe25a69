"""What a strategy is: a key for each pair from the narrow columns of a shard; the smallest keys are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pdray.errors import UserError

PairIds = Callable[[], list[str]]


@dataclass(frozen=True)
class Table:
    """The pairs of a shard as a strategy sees them.

    Attributes:
        divergence: (n,) float64, PD in [−(κ−1), κ−1] or, with ``selection.weights``, their weighted sum; NaN where it
            is not known.
        median: of the divergence over the whole corpus, for a strategy that asks for it; else NaN.
        seed: of the run.
        read_ids: gives the n ids; they are slow to read and to hash.
        read_lengths: gives (2, n) int64, tokens of the chosen and rejected responses.
    """

    divergence: np.ndarray
    median: float
    seed: int
    read_ids: PairIds
    read_lengths: Callable[[], np.ndarray]

    @cached_property
    def ids(self) -> list[str]:
        """``pair_id`` of each pair."""
        return self.read_ids()

    @cached_property
    def lengths(self) -> np.ndarray:
        """(2, n) int64, tokens of the chosen and rejected responses."""
        return self.read_lengths()


@dataclass(frozen=True)
class Strategy:
    """How pairs are chosen.

    A package adds one by the entry point group ``pdray.strategies``: its name is what ``selection.strategy`` says, and
    it leads to an object of this class. It has to be installed on every node.

    Attributes:
        key: (n,) float64 from the table of a shard, the smaller the better; called in workers. Where the divergence is
            NaN the key counts as NaN, so that all strategies choose among the same pairs.
        about: what is kept, with its equation or paper, in a line.
        margins: what the divergence is made of: the rewards of the proxies, or the true ratings of the corpus.
        needs_median: whether the key looks at :attr:`Table.median`.
        keeps_all: whether every pair with a key is kept, whatever the budget.
    """

    key: Callable[[Table], np.ndarray]
    about: str
    margins: Literal["proxies", "ratings"] = "proxies"
    needs_median: bool = False
    keeps_all: bool = False


def sort_key(strategy: Strategy, table: Table) -> np.ndarray:
    """The key of each pair, (n,) float64, never −0.0; NaN where the divergence is.

    Raises:
        UserError: the strategy gives something else than a number for each pair.
    """
    keys = np.asarray(strategy.key(table))
    if keys.shape != table.divergence.shape or keys.dtype.kind not in "iuf":
        raise UserError(
            f"the strategy that keeps {strategy.about} gives keys of shape {keys.shape} and type {keys.dtype} for "
            f"{len(table.divergence)} pairs; a number for each is needed"
        )
    return np.where(np.isnan(table.divergence), np.nan, keys) + 0.0
