"""Exact quantiles of |margin| over all shards: a radix selection on the bits of the floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pdray.selection.divergence import quantile_rank
from pdray.selection.order import Margins
from pdray.selection.radix import DIGIT_BITS, digit_counts, locate, size_bits


class MarginSource(Protocol):
    """Pairs in shards: aspect -> ρ, aspects in their order, and the margins of a shard; picklable."""

    @property
    def penalties(self) -> dict[str, float]: ...

    def margins(self, shard: int) -> Margins: ...


@dataclass(frozen=True)
class CountSizes:
    """A pass: per aspect, how often each digit follows the digits found so far among the sizes of its margins.

    Attributes:
        source: the pairs; those that an aspect labelled itself do not count for it (eq. 13).
        prefixes: per aspect the digits found so far; None where there is nothing to count.
        level: place of the digit.
    """

    source: MarginSource
    prefixes: list[int | None]
    level: int

    def __call__(self, shard: int) -> np.ndarray:
        margins = self.source.margins(shard)
        counts = np.zeros((len(self.prefixes), 1 << DIGIT_BITS), np.int64)
        for index, prefix in enumerate(self.prefixes):
            if prefix is not None:
                bits = size_bits(margins.values[index][margins.own != index])
                counts[index] = digit_counts(bits, prefix, self.level)
        return counts


def absolute_quantiles(source: MarginSource, gamma: float, run: Callable[[CountSizes], np.ndarray]) -> dict[str, float]:
    """The γ-quantile of the size of each aspect's margins, over the pairs that it did not label (eq. 13).

    Args:
        source: the pairs.
        gamma: γ in (0, 1].
        run: adds up a pass over all shards.

    Returns:
        aspect -> q, an exact order statistic; NaN for an aspect without a finite margin.
    """
    prefixes: list[int | None] = [0] * len(source.penalties)
    ranks = [0] * len(prefixes)
    for level in range(2):
        for index, counts in enumerate(run(CountSizes(source, list(prefixes), level))):
            prefix, total = prefixes[index], int(counts.sum())
            if prefix is None or not total:
                prefixes[index] = None
                continue
            if level == 0:
                ranks[index] = quantile_rank(gamma, total)
            digit, ranks[index] = locate(counts, ranks[index])
            prefixes[index] = (prefix << DIGIT_BITS) | digit
    return {aspect: _as_float(prefix) for aspect, prefix in zip(source.penalties, prefixes, strict=True)}


def _as_float(bits: int | None) -> float:
    return float("nan") if bits is None else float(np.uint32(bits).view(np.float32))
