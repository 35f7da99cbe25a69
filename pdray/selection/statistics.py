"""Statistics over all shards that depend on no order: exact sums of floats as integers, quantiles by radix passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from pdray.selection import strategies
from pdray.selection.cut import CountKeys, radix_cut
from pdray.selection.divergence import quantile_rank
from pdray.selection.order import Ordering
from pdray.selection.radix import float_of
from pdray.selection.strategy import Column

# Every float64 is a multiple of 2⁻¹⁰⁷⁴; frexp gives 53 digits below that.
SMALLEST = 1074 + 53
HALF_BITS = 26


def exact_sum(values: np.ndarray) -> int:
    """The sum in units of 2^−SMALLEST, exact, so that it is the same in any order and any grouping.

    Args:
        values: (n,) float64, finite.
    """
    assert np.isfinite(values).all(), "only finite numbers have a sum"
    mantissas, exponents = np.frexp(values)
    digits = np.ldexp(mantissas, 53).astype(np.int64)
    total = 0
    for exponent in np.unique(exponents).tolist():
        these = digits[exponents == exponent]
        # In halves, whose sums do not overflow.
        high, low = these >> HALF_BITS, these & ((1 << HALF_BITS) - 1)
        total += ((int(high.sum()) << HALF_BITS) + int(low.sum())) << (exponent - 53 + SMALLEST)
    return total


@dataclass(frozen=True)
class Total:
    """How many numbers there are, and their exact sum; see :func:`exact_sum`."""

    count: int
    units: int

    def __add__(self, other: Total) -> Total:
        return Total(self.count + other.count, self.units + other.units)

    @property
    def mean(self) -> float:
        """Correctly rounded; NaN of no numbers."""
        return float(Fraction(self.units, self.count << SMALLEST)) if self.count else float("nan")


@dataclass(frozen=True)
class AddUp:
    """A pass over a column: its finite values, or their squared distances from a centre."""

    order: Ordering
    centre: float | None = None

    def __call__(self, shard: int) -> Total:
        values = self.order.keys(shard, self.order.divergence(shard)[1])
        values = values[np.isfinite(values)]
        if self.centre is not None:
            values = (values - self.centre) ** 2
        return Total(len(values), exact_sum(values))


def find_statistics(order: Ordering, run: Callable[..., Any]) -> dict[str, float]:
    """What the strategy of an ordering asks for, by name.

    Args:
        order: how the pairs are ordered; without statistics.
        run: adds up a pass over all shards.
    """
    means: dict[Column, float] = {}
    found = {}
    for name, statistic in strategies.find(order.strategy).statistics.items():
        column = replace(order, column=name)
        if statistic.kind == "quantile":
            found[name] = _quantile(column, statistic.level, run)
            continue
        if statistic.column not in means:
            means[statistic.column] = run(AddUp(column)).mean
        mean = means[statistic.column]
        found[name] = mean if statistic.kind == "mean" else math.sqrt(run(AddUp(column, mean)).mean)
    return found


def _quantile(column: Ordering, level: float, run: Callable[..., Any]) -> float:
    counts = run(CountKeys(column, 0, 0)).counts
    finite = int(counts.sum())
    if not finite:
        return float("nan")
    return float_of(radix_cut(column, quantile_rank(level, finite), counts, run).bits)
