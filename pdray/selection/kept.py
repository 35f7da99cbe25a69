"""The last pass: which pairs of a shard are kept, their margins and their text, and the figures of the shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pdray.errors import UserError
from pdray.runtime.tasks import SHARD_SECONDS
from pdray.schema import KEPT, PAIRS, PROMPTS, TEXTS, kept_schema, selection_schema
from pdray.selection.cut import Cut, GroupCuts
from pdray.selection.groups import BY, MOST_GROUPS, add_counts, count_groups, in_order, length_groups, named_groups
from pdray.selection.order import Margins, Ordering
from pdray.selection.radix import NOT_FINITE, ordered_bits
from pdray.selection.strategies.random import random_keys
from pdray.shards import Outcome, ShardedFolder, attempted, remembering

ROWS = ("chosen_row", "rejected_row")


@dataclass(frozen=True)
class KeptWriter:
    """Writes the tables ``pairs`` and ``kept`` of a shard; picklable.

    Attributes:
        order: how the pairs are ordered.
        cut: which are kept.
        target: the shards of this stage.
        conversational: whether texts are lists of messages.
        rated: whether the corpus knows conflicts.
        budget: share of the random draw whose conflicts are counted beside those of the kept pairs.
    """

    order: Ordering
    cut: Cut | GroupCuts
    target: ShardedFolder
    conversational: bool
    rated: bool
    budget: float

    def __call__(self, shard: int) -> Outcome:
        """Write a shard.

        Raises:
            UserError: a table of the corpus or of the scores is gone or damaged.
        """
        return attempted(shard, SHARD_SECONDS, self._write)

    def _write(self, shard: int) -> None:
        source = self.order.source
        source = replace(source, corpus=remembering(source.corpus), scores=remembering(source.scores))
        order = replace(self.order, source=source)
        for table in (PROMPTS, TEXTS):
            source.corpus.read_ahead(table, shard)
        columns = ["pair_id", "aspect", "source", *ROWS, *(["conflict"] if self.rated else [])]
        pairs = source.corpus.read(PAIRS, shard, columns)
        scaled, divergence = order.divergence(shard)
        bits, ids = ordered_bits(order.keys(shard, divergence)), source.ids(shard)
        kept = self.cut.keeps(bits, ids, order.groups(shard))
        swapped = order.changes_places(shard, divergence)
        chosen = _change_places(pairs.select(["aspect", *ROWS]), swapped).filter(pa.array(kept))
        kept_ids = ids.filter(pa.array(kept))
        digest = ids_digest(kept_ids.view(pa.binary()).to_pylist())
        lengths = source.lengths(shard)
        groups = _groups(pairs, lengths[0], kept)
        facts: dict[str, Any] = {
            "kept": len(chosen),
            "finite": int((bits != NOT_FINITE).sum()),
            "ids_digest": as_hex(digest),
            "last": self._last(bits, ids, kept, divergence),
            "kept_per_aspect": groups["aspect"][0],
            "relabelled": int((swapped & kept).sum()),
            "longer": _longer(lengths, kept, swapped),
            "groups": {by: counts if len(counts[1]) <= MOST_GROUPS else None for by, counts in groups.items()},
        }
        if self.rated:
            drawn = random_keys(ids.to_pylist(), self.order.seed) < self.budget
            # Of the labels that the corpus brings: a pair that got another one counts as known no more.
            masks = {"all": bits != NOT_FINITE, "kept": kept & ~swapped, "random": drawn & (bits != NOT_FINITE)}
            facts["conflict"] = {name: _tally(pairs["conflict"], mask) for name, mask in masks.items()}
        tables = {
            PAIRS: selection_table(list(self.order.quantiles), ids, divergence, kept, scaled),
            KEPT: self._text(shard, kept_ids, chosen),
        }
        # Texts hardly repeat, and nobody asks for the smallest: a dictionary and statistics of them only cost time.
        # Snappy is what readers everywhere expect.
        narrow = [*tables[PAIRS].column_names, "aspect"]
        options: dict[str, Any] = {"use_dictionary": ["aspect"], "write_statistics": narrow, "compression": "snappy"}
        self.target.write(shard, tables, ids_sum=digest, facts=facts, whole=[KEPT], **options)

    def _last(self, bits: np.ndarray, ids: pa.Array, kept: np.ndarray, pd: np.ndarray) -> tuple[str, float] | None:
        """Id and divergence of the shard's last pair with the key of the cut; with a quota there are several cuts."""
        if isinstance(self.cut, GroupCuts):
            return None
        at_cut = np.flatnonzero(kept & (bits == np.uint64(self.cut.bits)))
        # By key, then by id: a shard's pairs are sorted by their ids.
        return (ids[at_cut[-1]].as_py(), float(pd[at_cut[-1]])) if len(at_cut) else None

    def _text(self, shard: int, ids: pa.Array, pairs: pa.Table) -> pa.Table:
        chosen, rejected = pairs["chosen_row"].to_numpy(), pairs["rejected_row"].to_numpy()
        corpus = self.order.source.corpus
        prompt_row = corpus.read(TEXTS, shard, ["prompt_row"])["prompt_row"].to_numpy()
        if len(pairs) and max(chosen.max(), rejected.max()) >= len(prompt_row):
            raise UserError(_lacks_rows(corpus, TEXTS, shard))
        (prompts,) = read_places(corpus, shard, PROMPTS, "prompt", [prompt_row[chosen]])
        responses = read_places(corpus, shard, TEXTS, "response", [chosen, rejected])
        return pa.table([ids, prompts, *responses, pairs["aspect"]], schema=kept_schema(self.conversational))


def read_places(
    corpus: ShardedFolder, shard: int, table: str, column: str, places: list[np.ndarray]
) -> list[pa.ChunkedArray]:
    """A column of a shard at some row numbers.

    Args:
        corpus: has the table.
        shard: its number.
        table: its name.
        column: of prompts or responses.
        places: lists of row numbers, in any order.

    Returns:
        a column for each list, in its order.

    Raises:
        UserError: the table is gone, damaged or shorter than the row numbers ask for.
    """
    wanted = np.zeros(max((int(rows.max()) + 1 for rows in places if len(rows)), default=0), bool)
    for rows in places:
        wanted[rows] = True
    found: list[pa.Array] = []
    start = 0
    for part in corpus.parts(table, shard, column):
        mask = wanted[start : start + len(part)]
        found.append(part.slice(0, len(mask)).filter(pa.array(mask)))
        start += len(part)
    if start < len(wanted):
        raise UserError(_lacks_rows(corpus, table, shard))
    values = pa.chunked_array(found).combine_chunks()
    place = np.cumsum(wanted) - 1
    return [pa.chunked_array([values.take(pa.array(place[rows]))]) for rows in places]


def _lacks_rows(corpus: ShardedFolder, table: str, shard: int) -> str:
    return f"{corpus.table(table, shard)} lacks rows that pairs name; run again, and it is made anew"


def selection_table(
    aspects: list[str], ids: pa.Array, divergence: np.ndarray, kept: np.ndarray, scaled: Margins
) -> pa.Table:
    """The table ``pairs`` of the selection; see :func:`~pdray.schema.selection_schema`."""
    margins = [
        pa.array(values.astype(np.float32), mask=scaled.own == index) for index, values in enumerate(scaled.values)
    ]
    return pa.table([ids, pa.array(divergence), pa.array(kept), *margins], schema=selection_schema(aspects))


def ids_digest(ids: Iterable[bytes]) -> int:
    """Digest of a set of ids in UTF-8: the sum of their XXH3 (128 bits) modulo 2^128.

    A sum of digests is the digest of the union, and it does not depend on an order, so shards can be digested apart.
    It tells sets apart that differ by chance, not by intent, as would a sum of any other digests.
    """
    return sum(map(xxhash.xxh3_128_intdigest, ids)) % 2**128


def as_hex(digest: int) -> str:
    """32 hexadecimal digits."""
    return f"{digest:032x}"


def _change_places(pairs: pa.Table, swapped: np.ndarray) -> pa.Table:
    """The pairs with the rows of chosen and rejected exchanged where ``swapped``."""
    if not swapped.any():
        return pairs
    chosen, rejected = pairs["chosen_row"], pairs["rejected_row"]
    mask = pa.array(swapped)
    for name, one, other in (("chosen_row", rejected, chosen), ("rejected_row", chosen, rejected)):
        pairs = pairs.set_column(pairs.schema.get_field_index(name), name, pc.if_else(mask, one, other))
    return pairs


def _longer(lengths: np.ndarray, kept: np.ndarray, swapped: np.ndarray) -> dict[str, list[int]]:
    """Pairs whose chosen response has more tokens than the rejected one, and pairs; of all and of the kept."""
    longer = lengths[0] > lengths[1]
    as_kept = np.where(swapped, lengths[1] > lengths[0], longer)[kept]
    return {"all": [int(longer.sum()), len(longer)], "kept": [int(as_kept.sum()), int(kept.sum())]}


def _groups(pairs: pa.Table, chosen_tokens: np.ndarray, kept: np.ndarray) -> dict[str, list[dict[str, int]]]:
    """By aspect, source and length: group -> pairs that are kept, and pairs."""
    every = np.ones(len(kept), bool)
    return {
        by: count_groups(length_groups(chosen_tokens) if by == "length" else named_groups(pairs[by], by), kept, every)
        for by in BY
    }


def _tally(conflict: pa.ChunkedArray, mask: np.ndarray) -> list[int]:
    """Conflicts, and pairs of which it is known."""
    known = conflict.filter(pa.array(mask)).drop_null()
    return [pc.sum(known).as_py() or 0, len(known)]


def add_facts(facts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all shards from those of each, of which one is held at a time."""
    total = reduce(_both, facts)
    conflict = total.get("conflict")
    return {
        "kept": total["kept"],
        "finite": total["finite"],
        "relabelled": total["relabelled"],
        "ids_digest": total["ids_digest"],
        "cut_pd": total["last"][1] if total["last"] else None,
        "kept_per_aspect": dict(sorted(total["kept_per_aspect"].items())),
        # Shares among all finite pairs, the kept ones and a seeded draw of about the same size.
        "conflict": _shares(conflict) if conflict else None,
        "chosen_longer": _shares(total["longer"]),
        **{f"share_by_{by}": _kept_share(total["groups"][by]) for by in BY},
    }


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The facts of two shards as those of one."""
    added: dict[str, Any] = {name: one[name] + other[name] for name in ("kept", "finite", "relabelled")}
    for name in ("longer", "conflict"):
        if name in one:
            added[name] = {
                key: [a + b for a, b in zip(one[name][key], other[name][key], strict=True)] for key in one[name]
            }
    return added | {
        "ids_digest": as_hex((int(one["ids_digest"], 16) + int(other["ids_digest"], 16)) % 2**128),
        "last": max(filter(None, (one["last"], other["last"])), default=None),
        "kept_per_aspect": add_counts(one["kept_per_aspect"], other["kept_per_aspect"]),
        "groups": {by: _both_groups(one["groups"][by], other["groups"][by]) for by in BY},
    }


def _both_groups(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    added = [add_counts(*side) for side in zip(one, other, strict=True)]
    return added if len(added[1]) <= MOST_GROUPS else None


def _kept_share(groups: list[dict[str, int]] | None) -> dict[str, float] | None:
    """Group -> share of its pairs that is kept; None where there is one group, or too many."""
    if groups is None or len(groups[1]) < 2:
        return None
    kept, every = groups
    return {name: kept.get(name, 0) / every[name] for name in in_order(every)}


def _shares(tally: dict[str, list[int]]) -> dict[str, float] | None:
    """Name -> share of what was found among what is known; None where nothing is known."""
    return {name: found / known for name, (found, known) in tally.items() if known} or None
