"""Pairs to read: which ones, decided shard by shard, and their texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.hashing import hash64
from pdray.report.tables import PairColumns, PairTables, UnreadableError
from pdray.schema import KEPT, PAIRS, PROMPTS, TEXTS
from pdray.selection.kept import read_places

NEGATIVE, CUT, POSITIVE = "Most negative divergence", "At the cut", "Most positive divergence"
EXTREME, TYPICAL = 8, 5  # pairs of each end and of the cut, and pairs of each aspect
MOST_LETTERS = 4000
SALT = "report"


@dataclass(frozen=True, order=True)
class Candidate:
    """A pair that may be shown: those with the smallest key come first, and of equal ones those of smallest hash.

    Attributes:
        key: what the group orders by.
        mark: 64-bit hash of its id, so that ties are broken like a draw.
        shard, row: where it stands.
    """

    key: float
    mark: int
    shard: int
    row: int


Groups = dict[str, list[Candidate]]


def candidates(pairs: PairColumns, aspects: list[str], shard: int, cut: float | None) -> Groups:
    """The best candidates of a shard for every group.

    Args:
        pairs: of the shard.
        aspects: κ names.
        shard: its number.
        cut: divergence of the last pair that is kept, where pairs are kept by their divergence.
    """
    marks = hash64(pairs.ids.to_pylist(), SALT)
    finite = np.isfinite(pairs.divergence)
    keys = {NEGATIVE: pairs.divergence, POSITIVE: -pairs.divergence}
    if cut is not None:
        keys[CUT] = np.abs(pairs.divergence - cut)
    found = {name: _smallest(key, marks, finite, shard, EXTREME) for name, key in keys.items()}
    nothing = np.zeros(len(marks))
    for index, aspect in enumerate(aspects):
        found[_of(aspect)] = _smallest(nothing, marks, finite & (pairs.own == index), shard, TYPICAL)
    return found


def _of(aspect: str) -> str:
    return f"Labelled by {aspect}"


def group_order(aspects: list[str]) -> list[str]:
    """The groups as the page has them."""
    return [NEGATIVE, CUT, POSITIVE, *map(_of, aspects)]


def _smallest(keys: np.ndarray, marks: np.ndarray, mask: np.ndarray, shard: int, most: int) -> list[Candidate]:
    rows = np.flatnonzero(mask)
    order = rows[np.lexsort((marks[rows], keys[rows]))[:most]]
    return [Candidate(float(keys[row]), int(marks[row]), shard, int(row)) for row in order]


def best_of(groups: Iterable[Groups]) -> Groups:
    """The groups of several shards as one."""
    merged: Groups = defaultdict(list)
    for one in groups:
        for name, found in one.items():
            most = EXTREME if name in (NEGATIVE, CUT, POSITIVE) else TYPICAL
            merged[name] = sorted([*merged[name], *found])[:most]
    return dict(merged)


def read_samples(tables: PairTables, groups: Groups) -> dict[str, list[dict[str, Any]]]:
    """The pairs of every group with all that is shown of them; a pair may stand in several groups.

    Returns:
        group -> pairs: ``pair_id``, ``aspect``, ``source``, ``conflict``, ``pd``, ``kept``, ``margins`` by aspect, and
        ``prompt``, ``chosen`` and ``rejected`` as lists of (role or None, text, letters that were cut off), and
        ``relabelled``: whether the last two have changed places, which margins and divergence have not.

    Raises:
        UnreadableError: a table is gone or damaged.
    """
    rows: dict[int, set[int]] = defaultdict(set)
    for found in groups.values():
        for one in found:
            rows[one.shard].add(one.row)
    shown = {(shard, row): pair for shard in sorted(rows) for row, pair in _pairs(tables, shard, sorted(rows[shard]))}
    return {
        name: [shown[one.shard, one.row] for one in groups[name]]
        for name in group_order(tables.aspects)
        if groups.get(name)
    }


def _pairs(tables: PairTables, shard: int, rows: list[int]) -> list[tuple[int, dict[str, Any]]]:
    columns = ["aspect", "source", "chosen_row", "rejected_row", *(["conflict"] if tables.rated else [])]
    pairs = tables.corpus.read(PAIRS, shard, columns).take(rows)
    selected = tables.selection.read(PAIRS, shard).take(rows).to_pylist()
    chosen, rejected = pairs["chosen_row"].to_numpy(), pairs["rejected_row"].to_numpy()
    prompt_row = tables.corpus.read(TEXTS, shard, ["prompt_row"])["prompt_row"].to_numpy()
    if max(chosen.max(), rejected.max()) >= len(prompt_row):
        raise UnreadableError(f"{tables.corpus.folder.name} lacks texts of shard {shard}")
    (prompts,) = read_places(tables.corpus, shard, PROMPTS, "prompt", [prompt_row[chosen]])
    responses = read_places(tables.corpus, shard, TEXTS, "response", [chosen, rejected])
    texts: dict[str, pa.Array] = dict(zip(("prompt", "chosen", "rejected"), [prompts, *responses], strict=True))
    swapped = _relabelled(tables, shard, rows, responses[0]) if tables.relabelled else set()
    found = []
    for number, (row, pair, facts) in enumerate(zip(rows, pairs.to_pylist(), selected, strict=True)):
        margins = {aspect: facts[f"margin.{aspect}"] for aspect in tables.aspects}
        sides = {side: turns(column[number].as_py()) for side, column in texts.items()}
        if row in swapped:
            sides |= {"chosen": sides["rejected"], "rejected": sides["chosen"]}
        facts = {name: facts[name] for name in ("pair_id", "pd", "kept")}
        told = {name: pair.get(name) for name in ("aspect", "source", "conflict")} | {"relabelled": row in swapped}
        found.append((row, {**facts, **told, "margins": margins, **sides}))
    return found


def _relabelled(tables: PairTables, shard: int, rows: list[int], chosen: pa.ChunkedArray) -> set[int]:
    """Those of some rows of a shard whose kept pair has another chosen response than the corpus.

    Args:
        tables: of the run.
        shard: its number.
        rows: of its pairs.
        chosen: the responses that the corpus says were chosen, one for each row.
    """
    kept = tables.selection.read(PAIRS, shard, ["kept"])["kept"].to_numpy()
    places = np.cumsum(kept) - 1  # of each kept pair among the kept ones
    of_kept = tables.selection.whole(KEPT, shard)["chosen"]
    return {
        row
        for number, row in enumerate(rows)
        if kept[row] and of_kept[int(places[row])].as_py() != chosen[number].as_py()
    }


def turns(value: str | list[dict[str, str]]) -> list[tuple[str | None, str, int]]:
    """A text or messages as (role or None, text, letters cut off), at most MOST_LETTERS letters in all."""
    whole = [(None, value)] if isinstance(value, str) else [(turn["role"], turn["content"]) for turn in value]
    shown: list[tuple[str | None, str, int]] = []
    room = MOST_LETTERS
    for role, text in whole:
        if not room:  # of a long conversation the rest is counted
            last_role, last, cut = shown[-1]
            shown[-1] = (last_role, last, cut + len(text))
            continue
        kept = text[:room]
        room -= len(kept)
        shown.append((role, kept, len(text) - len(kept)))
    return shown
