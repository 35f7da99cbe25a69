"""Groups of pairs, by aspect, source or length: what a quota shares the budget out to, and what shares are told of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pdray.errors import UserError

GroupBy = Literal["aspect", "source", "length"]
BY: tuple[GroupBy, ...] = ("aspect", "source", "length")
# Each group of a quota takes passes of its own.
MOST_GROUPS = 64


def length_groups(tokens: np.ndarray) -> pa.DictionaryArray:
    """Names of lengths that differ by less than a factor of two, such as ``64-127 tokens``.

    Args:
        tokens: (n,) int64 ≥ 0.

    Returns:
        n names, as a dictionary.
    """
    _, exponents = np.frexp(tokens.astype(np.float64))
    names = ["0 tokens", *(f"{1 << e >> 1}-{(1 << e) - 1} tokens" for e in range(1, int(exponents.max(initial=0)) + 1))]
    return pa.DictionaryArray.from_arrays(pa.array(exponents), pa.array(names, pa.string()))


def named_groups(labels: pa.ChunkedArray, by: GroupBy) -> pa.DictionaryArray:
    """The labels as names, ``no source`` where there is none; n of them, as a dictionary."""
    encoded = labels.combine_chunks().dictionary_encode("encode")
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.fill_null(f"no {by}"))


@dataclass(frozen=True)
class GroupCounts:
    """How many pairs each group of a quota has.

    Raises:
        UserError: these are more groups than :data:`MOST_GROUPS`.
    """

    by: GroupBy
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        if len(self.counts) > MOST_GROUPS:
            raise UserError(
                f"selection.quota is {self.by}, of which the corpus has more than {MOST_GROUPS}; a budget is shared "
                "out to no more groups than that: name fewer, or choose another quota"
            )

    def __add__(self, other: GroupCounts) -> GroupCounts:
        return GroupCounts(self.by, add_counts(self.counts, other.counts))


def add_counts(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The counts of both."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}


def count_groups(groups: pa.DictionaryArray, *masks: np.ndarray) -> list[dict[str, int]]:
    """For each mask, (n,) bool, group -> how many of its pairs are in it; groups without any are left out."""
    names, codes = groups.dictionary.to_pylist(), groups.indices.to_numpy()
    found: list[dict[str, int]] = []
    for mask in masks:
        counts: Counter[str] = Counter()
        # A label may be called what pairs without a label are.
        for name, count in zip(names, np.bincount(codes[mask], minlength=len(names)).tolist(), strict=True):
            counts[name] += count
        found.append({name: count for name, count in counts.items() if count})
    return found


def shared_out(wanted: int, counts: Mapping[str, int]) -> dict[str, int]:
    """A budget shared out in proportion to the size of each group, by the largest remainders (Hamilton's method).

    Args:
        wanted: pairs in all, at most the sum of the counts.
        counts: group -> pairs that it has.

    Returns:
        group -> pairs that it gets, in the order of their names, ``wanted`` in sum and never more than it has.
    """
    total = sum(counts.values())
    names = sorted(counts)
    whole = {name: wanted * counts[name] // total for name in names}
    by_remainder = sorted(names, key=lambda name: (-(wanted * counts[name] % total), name))
    for name in by_remainder[: wanted - sum(whole.values())]:
        whole[name] += 1
    return whole


def in_order(names: Iterable[str]) -> list[str]:
    """Names of groups as people would list them: lengths by their size, others by the alphabet."""

    def place(name: str) -> tuple[int, str]:
        first = name.partition("-")[0].partition(" ")[0]
        return (int(first) if name.endswith(" tokens") and first.isdigit() else 0, name)

    return sorted(names, key=place)
