"""What a strategy is: a key for each pair from the narrow columns of a shard; the smallest keys are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from pdray.errors import UserError

Model = Literal["policy", "reference"]


@dataclass(frozen=True)
class LogProbs:
    """How likely two models find the responses of n pairs; the first row is of the chosen, the second of the rejected.

    Attributes:
        policy, reference: (2, n) float64, log-probability of the response given its prompt, in nats, summed over its
            tokens; NaN where it is not known. The reference is the policy where the run names no other.
        num_tokens: (2, n) int64, tokens that were summed.
    """

    policy: np.ndarray
    reference: np.ndarray
    num_tokens: np.ndarray

    @property
    def implicit_margin(self) -> np.ndarray:
        """(n,) float64, log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x), the margin M_θ of DPO with β = 1."""
        ratio = self.policy - self.reference
        margin: np.ndarray = ratio[0] - ratio[1]
        return margin

    def gap_per_token(self, model: Model) -> np.ndarray:
        """(n,) float64, mean log-probability of a chosen token less that of a rejected one.

        It is the logarithm of the rejected response's perplexity less that of the chosen one's; NaN where a response
        has no token.
        """
        means: np.ndarray = getattr(self, model) / np.where(self.num_tokens > 0, self.num_tokens, np.nan)
        gap: np.ndarray = means[0] - means[1]
        return gap


class Columns(Protocol):
    """Reads the columns of a shard that cost something."""

    def ids(self) -> list[str]:
        """``pair_id`` of each of n pairs."""
        ...

    def lengths(self) -> np.ndarray:
        """(2, n) int64, tokens of the chosen and rejected responses."""
        ...

    def own_margins(self) -> np.ndarray:
        """(n,) float64, Δr̂_k − ρΔlen of the aspect k that labelled the pair."""
        ...

    def unified_margins(self) -> np.ndarray:
        """(n,) float64, Δr̂ − ρΔlen of the reward model of all aspects together, where the run has one."""
        ...

    def logps(self) -> LogProbs:
        """Log-probabilities, where the run has them."""
        ...

    def validation_losses(self) -> np.ndarray:
        """(n,) float64, DPO's loss under policies that saw no pair of the prompt, where the run has them."""
        ...

    def mean_rating_gap(self) -> np.ndarray:
        """(n,) float64, mean true rating of the chosen response less that of the rejected one; NaN without ratings."""
        ...

    def overall_gap(self) -> np.ndarray:
        """(n,) float64 by the overall label, 1 for the chosen response, −1 for the rejected, 0 equal, NaN none."""
        ...


@dataclass(frozen=True)
class Table:
    """The pairs of a shard as a strategy sees them.

    Attributes:
        divergence: (n,) float64, PD in [−(κ−1), κ−1] or, with ``selection.weights``, their weighted sum; NaN where it
            is not known.
        seed: of the run.
        columns: reads what is asked for.
        statistics: those that the strategy asks for, by its names; NaN where no pair of the corpus has the column.
    """

    divergence: np.ndarray
    seed: int
    columns: Columns
    statistics: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def ids(self) -> list[str]:
        """``pair_id`` of each pair; they are slow to read and to hash."""
        return self.columns.ids()

    @cached_property
    def lengths(self) -> np.ndarray:
        """(2, n) int64, tokens of the chosen and rejected responses."""
        return self.columns.lengths()

    @cached_property
    def own_margins(self) -> np.ndarray:
        """(n,) float64, reward margin of the aspect that labelled the pair, in log-odds of Bradley-Terry."""
        return self.columns.own_margins()

    @cached_property
    def unified_margins(self) -> np.ndarray:
        """(n,) float64, reward margin of one model of all aspects; for strategies with :attr:`Strategy.unified`."""
        return self.columns.unified_margins()

    @cached_property
    def logps(self) -> LogProbs:
        """Log-probabilities; for strategies that name the models in :attr:`Strategy.logps`."""
        return self.columns.logps()

    @cached_property
    def validation_losses(self) -> np.ndarray:
        """(n,) float64, DPO's loss under policies that saw no pair of the prompt; for :attr:`Strategy.crossfit`."""
        return self.columns.validation_losses()

    @cached_property
    def mean_rating_gap(self) -> np.ndarray:
        """(n,) float64, mean true rating of the chosen response less that of the rejected one; NaN without ratings."""
        return self.columns.mean_rating_gap()

    @cached_property
    def overall_gap(self) -> np.ndarray:
        """(n,) float64 by the overall label, 1 for the chosen response, −1 for the rejected, 0 equal, NaN none."""
        return self.columns.overall_gap()


Column = Callable[[Table], np.ndarray]


@dataclass(frozen=True)
class Statistic:
    """A number over all pairs of the corpus, the same however they are sharded.

    Pairs whose divergence or column is not finite do not count.

    Attributes:
        kind: arithmetic mean, standard deviation (of the whole corpus, not of a sample), or quantile.
        column: (n,) numbers from the table of a shard, whose statistics are not known yet.
        level: of a quantile, in (0, 1]; an order statistic, no interpolation.
    """

    kind: Literal["mean", "deviation", "quantile"]
    column: Column
    level: float = 0.5


def moments(name: str, column: Column) -> dict[str, Statistic]:
    """The statistics that :func:`z_scores` reads."""
    return {f"{name} mean": Statistic("mean", column), f"{name} deviation": Statistic("deviation", column)}


def z_scores(table: Table, name: str, values: np.ndarray) -> np.ndarray:
    """(n,) float64, distance from the mean of the corpus in standard deviations; 0 for a column that never changes."""
    deviation = table.statistics[f"{name} deviation"]
    centred: np.ndarray = values - table.statistics[f"{name} mean"]
    return centred / deviation if deviation else centred * 0.0


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
        logps: the models whose log-probabilities the key reads; two of them have to be different models.
        unified: whether the key reads the margins of the reward model of all aspects together.
        crossfit: whether the key reads the losses of the stage ``crossfit``.
        statistics: what the key has to know of the whole corpus, by the names that it gives them.
        keeps_all: whether every pair with a key is kept, whatever the budget.
        label: for strategies that label pairs anew: (n,) numbers from the table of a shard. Above 0 a pair stays as it
            is, below 0 its responses change places where it is kept, and with 0 or NaN it has no label and no key.
        label_of: what the label is made of.
    """

    key: Column
    about: str
    margins: Literal["proxies", "ratings"] = "proxies"
    logps: tuple[Model, ...] = ()
    unified: bool = False
    crossfit: bool = False
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    keeps_all: bool = False
    label: Column | None = None
    label_of: Literal["ratings", "overall"] | None = None

    @property
    def reads_ratings(self) -> bool:
        """Whether it needs true ratings of every aspect."""
        return self.margins == "ratings" or self.label_of == "ratings"


def sort_key(strategy: Strategy, table: Table) -> np.ndarray:
    """The key of each pair, (n,) float64, never −0.0; NaN where the divergence is, or the pair has no label.

    Raises:
        UserError: the strategy gives something else than a number for each pair.
    """
    keys = np.asarray(strategy.key(table))
    if keys.shape != table.divergence.shape or keys.dtype.kind not in "iuf":
        raise UserError(
            f"the strategy that keeps {strategy.about} gives keys of shape {keys.shape} and type {keys.dtype} for "
            f"{len(table.divergence)} pairs; a number for each is needed"
        )
    unknown = np.isnan(table.divergence)
    if strategy.label is not None:
        unknown = unknown | ~(np.abs(strategy.label(table)) > 0)
    return np.where(unknown, np.nan, keys) + 0.0


def changes_places(strategy: Strategy, table: Table) -> np.ndarray:
    """Which pairs the strategy labels the other way round, (n,) bool."""
    if strategy.label is None:
        return np.zeros(len(table.divergence), bool)
    swapped: np.ndarray = strategy.label(table) < 0
    return swapped
