"""Exact quantiles of |margin| over all shards: a radix selection on the bits of the floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pdray.selection.divergence import quantile_rank
from pdray.selection.guess import Bracket, around, guess
from pdray.selection.order import Margins
from pdray.selection.radix import DIGIT_BITS, digit_counts, locate, size_bits


class MarginSource(Protocol):
    """Pairs in S shards: aspect -> ρ, aspects in their order, and the margins of a shard; picklable."""

    @property
    def num_shards(self) -> int: ...

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
                counts[index] = digit_counts(_sizes(margins, index), prefix, self.level)
        return counts


@dataclass(frozen=True)
class SizesAround:
    """A pass: per aspect with a bracket, the sizes of its margins around it.

    Attributes:
        source: the pairs, as for :class:`CountSizes`.
        brackets: one per aspect; None where there is no guess.
    """

    source: MarginSource
    brackets: list[Bracket | None]

    def __call__(self, shard: int) -> np.ndarray:
        """(κ,) of :class:`~pdray.selection.guess.Around` or 0, which NumPy adds up one by one."""
        margins = self.source.margins(shard)
        found = np.zeros(len(self.brackets), object)
        for index, bracket in enumerate(self.brackets):
            if bracket is not None:
                found[index] = around(_sizes(margins, index), bracket)
        return found


def absolute_quantiles(source: MarginSource, gamma: float, run: Callable[[Any], np.ndarray]) -> dict[str, float]:
    """The γ-quantile of the size of each aspect's margins, over the pairs that it did not label (eq. 13).

    One shard tells where the quantiles are likely to lie, so that one pass over all shards is enough almost always;
    where it was not, radix passes follow.

    Args:
        source: the pairs.
        gamma: γ in (0, 1].
        run: adds up a pass over all shards.

    Returns:
        aspect -> q, an exact order statistic; NaN for an aspect without a finite margin.
    """
    sample, aspects = source.margins(0), range(len(source.penalties))
    brackets = [guess(_sizes(sample, index), gamma, source.num_shards) for index in aspects]
    found: list[int | None] = [None] * len(brackets)
    if any(brackets):
        for index, sizes in enumerate(run(SizesAround(source, brackets))):
            found[index] = sizes.at(quantile_rank(gamma, sizes.total)) if brackets[index] is not None else None
    if None in found:
        found = _radix_quantiles(source, gamma, run, found)
    return {aspect: _as_float(bits) for aspect, bits in zip(source.penalties, found, strict=True)}


def _radix_quantiles(
    source: MarginSource, gamma: float, run: Callable[[Any], np.ndarray], found: list[int | None]
) -> list[int | None]:
    """The bits of the quantiles that are not found yet, by passes over their digits."""
    prefixes: list[int | None] = [0 if bits is None else None for bits in found]
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
    return [prefix if bits is None else bits for prefix, bits in zip(prefixes, found, strict=True)]


def _sizes(margins: Margins, index: int) -> np.ndarray:
    """Bits of the finite sizes of an aspect's margins of the pairs that it did not label."""
    return size_bits(margins.values[index][margins.own != index])


def _as_float(bits: int | None) -> float:
    return float("nan") if bits is None else float(np.uint32(bits).view(np.float32))
