"""One pass over the narrow columns of all pairs, shard by shard: counts that no stage writes, and samples to read.

In memory are one shard and the sums, whatever the size of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.report.figures import octaves
from pdray.report.samples import Groups, best_of, candidates, read_samples
from pdray.report.tables import PairColumns, PairTables
from pdray.selection.auroc import BINS, grid_counts

OCTAVES = 32
MOST_SOURCES = 20_000  # names that are counted apart; those that come later by name count together
OTHERS = "\0others"  # no source has this name

Sources = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Counts:
    """Sums over some pairs.

    Attributes:
        divergence: (2, BINS) of the pairs left out and of those kept, on [−limit, limit].
        conflict: (2, BINS) of those without and those with a conflict, where that is known and the divergence finite.
        margins: (κ, BINS) of each aspect's known margins, on [−1, 1].
        products, squares: (κ, κ) Σ m_a m_b, and Σ m_a² over the pairs that have m_b too.
        lengths: (2, OCTAVES) pairs left out and kept, by the length of the chosen response.
        sources: name -> pairs and kept pairs; the name of pairs without a source is empty.
        groups: candidates for the samples.
    """

    divergence: np.ndarray
    conflict: np.ndarray
    margins: np.ndarray
    products: np.ndarray
    squares: np.ndarray
    lengths: np.ndarray
    sources: Sources
    groups: Groups

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.divergence + other.divergence,
            self.conflict + other.conflict,
            self.margins + other.margins,
            self.products + other.products,
            self.squares + other.squares,
            self.lengths + other.lengths,
            _added(self.sources, other.sources),
            best_of([self.groups, other.groups]),
        )


@dataclass(frozen=True)
class Scan:
    """What the pass found.

    Attributes:
        aspects: κ names, in the order of the counts.
        limit: largest size of a divergence.
        counts: of all pairs.
        samples: group -> pairs with their texts; see :func:`pdray.report.samples.read_samples`.
    """

    aspects: list[str]
    limit: float
    counts: Counts
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def scan(tables: PairTables, cut: float | None) -> Scan:
    """Go over all pairs of a run.

    Args:
        tables: of the run.
        cut: divergence of the last pair that is kept, where pairs are kept by their divergence.

    Raises:
        UnreadableError: a table is gone or damaged.
    """
    parts = (count(tables.read(shard), tables, shard, cut) for shard in range(tables.num_shards))
    counts = reduce(Counts.__add__, parts)
    return Scan(tables.aspects, tables.limit, counts, read_samples(tables, counts.groups))


def count(pairs: PairColumns, tables: PairTables, shard: int, cut: float | None) -> Counts:
    """The sums of one shard."""
    kept, known = pairs.kept, np.isfinite(pairs.divergence)
    margins = np.nan_to_num(pairs.margins)
    has = np.isfinite(pairs.margins).astype(np.float64)
    lengths = octaves(pairs.lengths)
    return Counts(
        divergence=np.stack([grid_counts(pairs.divergence[mask], tables.limit) for mask in (~kept, kept)]),
        conflict=np.stack(
            [grid_counts(pairs.divergence[known & (pairs.conflict == value)], tables.limit) for value in (0, 1)]
        ),
        margins=np.stack([grid_counts(row, 1.0, BINS) for row in pairs.margins]),
        products=margins @ margins.T,
        squares=margins**2 @ has.T,
        lengths=np.stack([np.bincount(lengths[mask], minlength=OCTAVES) for mask in (~kept, kept)]),
        sources=_by_source(pairs.source, kept),
        groups=candidates(pairs, tables.aspects, shard, cut),
    )


def _by_source(source: pa.ChunkedArray, kept: np.ndarray) -> Sources:
    names = pc.fill_null(source, "")
    every, of_kept = (
        {one["values"]: one["counts"] for one in pc.value_counts(some).to_pylist()}
        for some in (names, names.filter(pa.array(kept)))
    )
    return _bounded({name: (number, of_kept.get(name, 0)) for name, number in every.items()})


def _bounded(sources: Sources) -> Sources:
    """The first so many names; a name that is left out once comes after those of every larger set as well."""
    if len(sources) <= MOST_SOURCES:
        return sources
    names = sorted(sources.keys() - {OTHERS})
    rest = [sources[name] for name in [*names[MOST_SOURCES:], *({OTHERS} & sources.keys())]]
    shown = {name: sources[name] for name in names[:MOST_SOURCES]}
    return shown | ({OTHERS: (sum(every for every, _ in rest), sum(kept for _, kept in rest))} if rest else {})


def _added(one: Sources, other: Sources) -> Sources:
    merged = dict(one)
    for name, (every, kept) in other.items():
        before = merged.get(name, (0, 0))
        merged[name] = (before[0] + every, before[1] + kept)
    return _bounded(merged)
