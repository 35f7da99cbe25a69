"""``pdray data``: reads a rated data set, draws a pair and its aspect for each prompt, keeps a mixture, writes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from pdray import __version__
from pdray.builders.candidates import Candidates
from pdray.builders.catalogue import DATA_SETS, RATED, Layout, check_columns, rated_layout
from pdray.builders.draw import draw
from pdray.builders.mixture import AGREES, CONFLICTS, TOLERANCE, choose
from pdray.builders.read import Input, open_files, open_hub
from pdray.builders.units import Unit
from pdray.console import Console
from pdray.errors import UserError
from pdray.hashing import digest
from pdray.identity import file_identities
from pdray.newfolder import check_new_folder, is_new, made_whole
from pdray.paths import absolute
from pdray.storage import PARQUET

MANIFEST = "manifest.yaml"  # no name of a data file, so the corpus stage takes the folder as it is
RULE = "docs/data.md, version 1"
TWICE = "same pair twice"
NO_OTHER = "no other aspect rated"
LEFT_OUT = {CONFLICTS: "left out of the mixture, in conflict", AGREES: "left out of the mixture, in agreement"}
FOR_NUMBER = "left out, more than --pairs"
NO_ROWS = "the input holds no rows; give files with some"
ROUNDS = 5  # the ratings' spans decide what conflicts, and what is kept decides the spans


@dataclass
class Count:
    """What became of the input; every row is in one unit, and every unit is a pair or dropped.

    Attributes:
        rows, units: read.
        dropped: units without a pair in the result, by reason.
        not_given: ratings that are null or N/A, by aspect.
    """

    rows: int = 0
    units: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    not_given: Counter[str] = field(default_factory=Counter)

    def add(self, unit: Unit) -> None:
        """Count a unit that was read."""
        self.rows += unit.rows
        self.units += 1
        self.not_given.update(aspect for one in unit.ratings for aspect, rating in one.items() if rating is None)


def build(
    name: str,
    out: str,
    patterns: list[str] | None = None,
    *,
    conflict: float | None = None,
    pairs: int | None = None,
    seed: int = 0,
    split: str = "train",
    columns: dict[str, str] | None = None,
    license: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Build a data set of one-aspect pairs; the folder appears whole or not at all.

    Args:
        name: one of :data:`pdray.builders.catalogue.NAMES`.
        out: a new or empty local folder; it gets ``pairs-<n>.parquet`` and ``manifest.yaml``.
        patterns: files, folders or globs of the data set; None loads it from the hub.
        conflict: share of pairs in conflict, in [0, 1]; None leaves it as the draws make it.
        pairs: how many; None for as many as there are.
        seed: of the draws.
        split: on the hub.
        columns: for ``rated``: our name of a column -> the files'.
        license: in place of the one that is known of the data set.
        console: where progress is shown.

    Returns:
        the manifest.

    Raises:
        UserError: the input, the folder or a number is wrong, or the level is out of reach.
    """
    console = console or Console()
    target = _check(name, out, patterns, conflict, pairs, columns)
    source = open_files([absolute(one) for one in patterns]) if patterns else _from_hub(name, split)
    if not source.columns:
        raise UserError(NO_ROWS)
    known = DATA_SETS.get(name)
    layout = known.layout if known else rated_layout(source.columns, columns or {})
    check_columns(layout, source.columns, name)
    if conflict is not None and len(layout.aspects) < 2:
        raise UserError(
            f"{name} rates one aspect ({layout.aspects[0]}), so that no label opposes another; leave --conflict out"
        )
    named = known.hub if known else RATED
    terms = license or (known.license if known else "unknown")
    with made_whole(target) as folder:
        candidates = Candidates(folder.parent / "candidates.parquet", layout.aspects, layout.conversational)
        count = _collect(source, layout, candidates, seed, named, terms, console)
        kept, states = _choose(candidates, conflict, pairs, seed, count)
        manifest = {
            "name": name,
            "from": source.origin,
            "rule": RULE,
            "seed": seed,
            "conflict_asked": conflict,
            **_figures(candidates, kept, states),
            "rows_read": count.rows,
            "prompts_read": count.units,
            "dropped": dict(sorted(count.dropped.items())),
            "ratings_not_given": dict(sorted(count.not_given.items())),
            **_write(candidates, kept, folder),
            "pdray": __version__,
        }
        (folder / MANIFEST).write_text(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return manifest


def _check(
    name: str,
    out: str,
    patterns: list[str] | None,
    conflict: float | None,
    pairs: int | None,
    columns: dict[str, str] | None,
) -> Path:
    if conflict is not None and not 0 <= conflict <= 1:
        raise UserError(f"--conflict is {conflict:g}, but a share lies between 0 and 1; 0.1 means 10%")
    if pairs is not None and pairs < 1:
        raise UserError(f"--pairs is {pairs}, but at least one pair is needed; leave it out for all that there are")
    if name == RATED and not patterns:
        raise UserError("rated data of your own is on no hub; name its files with --input")
    if name != RATED and columns:
        raise UserError(f"--column is set, but the columns of {name} are known; leave it out, or build {RATED}")
    check_new_folder("--out", out)
    target = Path(absolute(out))
    if not is_new(target):
        raise UserError(f"--out {out} holds something already; name a new or an empty folder")
    return target


def _from_hub(name: str, split: str) -> Input:
    known = DATA_SETS[name]
    return open_hub(known.hub, known.config, split)


def _collect(
    source: Input, layout: Layout, candidates: Candidates, seed: int, name: str, terms: str, console: Console
) -> Count:
    count = Count()
    try:
        for unit in layout.units(source.rows()):
            count.add(unit)
            pair = draw(unit, layout.aspects, seed)
            if isinstance(pair, str):
                count.dropped[pair] += 1
            else:
                if layout.conversational:
                    pair |= {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
                whence = f"{name}/{unit.source}" if unit.source else name
                candidates.add(pair | {"source": whence, "license": terms})
            if count.units % 1000 == 0:
                console.progress(f"data: {count.rows:,} rows read")
    finally:
        console.clear()
    candidates.close()
    if not count.rows:
        raise UserError(NO_ROWS)
    return count


def _choose(
    candidates: Candidates, conflict: float | None, pairs: int | None, seed: int, count: Count
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool of the pairs that are kept, and (n,) int8 of the states that the corpus stage will find in them."""
    keys, labels = candidates.keys(f"{seed} mixture"), candidates.labels()
    order = np.lexsort((labels, keys))
    first = np.zeros(len(keys), bool)
    first[order] = np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)) != 0
    count.dropped[TWICE] += int((~first).sum())
    if not first.any():
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in count.dropped.items() if number)
        raise UserError(f"none of {count.units:,} prompts gave a pair ({reasons}); give responses that are rated apart")
    kept = first
    spans = candidates.spans(first)
    for _ in range(ROUNDS):
        states = candidates.states(labels, spans)
        kept = first.copy()
        kept[first] = choose(keys[first], labels[first], states[first], conflict, pairs)
        if np.array_equal(written := candidates.spans(kept), spans):
            break
        spans = written
    states = candidates.states(labels, written)
    share = np.mean(states[kept] == CONFLICTS)
    if conflict is not None and abs(share - conflict) > TOLERANCE:
        raise UserError(
            f"--conflict is {conflict:g}, but {share:.3f} of the {kept.sum():,} pairs conflict, because so few do not "
            "hold every rating of the scale; give more data"
        )
    _count_left_out(states[first & ~kept], conflict, count)
    assert count.units == int(kept.sum()) + count.dropped.total()
    return kept, states


def _count_left_out(states: np.ndarray, conflict: float | None, count: Count) -> None:
    if conflict is None:
        count.dropped[FOR_NUMBER] += len(states)
        return
    for state, reason in LEFT_OUT.items():
        count.dropped[reason] += int((states == state).sum())
    count.dropped[NO_OTHER] += int((~np.isin(states, list(LEFT_OUT))).sum())


def _figures(candidates: Candidates, kept: np.ndarray, states: np.ndarray) -> dict[str, Any]:
    labels = candidates.labels()
    judged = kept & np.isin(states, (AGREES, CONFLICTS))
    in_conflict = kept & (states == CONFLICTS)

    def share(mask: np.ndarray) -> float | None:
        return float(in_conflict[mask].sum() / judged[mask].sum()) if judged[mask].any() else None

    return {
        "pairs": int(kept.sum()),
        "conflict": share(kept),
        "aspects": {
            aspect: {"pairs": int((kept & (labels == code)).sum()), "conflict": share(kept & (labels == code))}
            for code, aspect in enumerate(candidates.aspects)
        },
    }


def _write(candidates: Candidates, kept: np.ndarray, folder: Path) -> dict[str, Any]:
    licenses: Counter[str] = Counter()
    sources: dict[str, dict[str, Any]] = {}
    files: dict[str, int] = {}
    for number, table in enumerate(candidates.tables(kept)):
        name = f"pairs-{number:05}.parquet"
        pq.write_table(table, folder / name, **PARQUET)
        files[name] = len(table)
        for source, license in zip(table["source"].to_pylist(), table["license"].to_pylist(), strict=True):
            licenses[license] += 1
            sources.setdefault(source, {"pairs": 0, "license": license})["pairs"] += 1
    hashes = file_identities([folder / name for name in files])
    return {
        "licenses": dict(sorted(licenses.items())),
        "sources": dict(sorted(sources.items())),
        "files": {name: {"pairs": files[name], "sha256": sha} for name, sha in zip(files, hashes, strict=True)},
        "digest": digest(*hashes),
    }


def tell(manifest: dict[str, Any]) -> str:
    """The build in some lines.

    Args:
        manifest: of :func:`build`.
    """
    share = "" if manifest["conflict"] is None else f", {manifest['conflict']:.1%} of them in conflict"
    aspects = ", ".join(f"{aspect} {one['pairs']:,}" for aspect, one in manifest["aspects"].items())
    dropped = {reason: number for reason, number in manifest["dropped"].items() if number}
    lines = [
        f"{manifest['rows_read']:,} rows read, which hold {manifest['prompts_read']:,} prompts with their responses: "
        f"{manifest['pairs']:,} pairs written, {sum(dropped.values()):,} dropped",
        *(f"  {number:>9,}  {reason}" for reason, number in sorted(dropped.items(), key=lambda item: -item[1])),
        f"{manifest['pairs']:,} pairs{share}; labelled by {aspects}",
        *(f"{number:,} pairs under the licence {license}" for license, number in manifest["licenses"].items()),
    ]
    if absent := sum(manifest["ratings_not_given"].values()):
        lines.insert(1, f"  {absent:>9,}  ratings are N/A or null")
    if len(manifest["aspects"]) == 1:
        lines.append("one aspect alone: the corpus stage compares at least two")
    return "\n".join(lines)
