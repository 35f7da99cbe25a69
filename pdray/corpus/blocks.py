"""What needs the whole corpus at once: duplicate ids and rating spans; then the writing of each block."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pdray.corpus.check import BAD_FIELDS, pair_schema
from pdray.corpus.conflict import conflicts
from pdray.corpus.rows import DROPPED, RowRules, canonical
from pdray.hashing import digest, hash64

DUPLICATE = "duplicate pair_id"
# The stages that follow read a row group at a time: small enough to be a piece of work, large enough to compress.
ROWS_PER_GROUP = 2048


@dataclass
class Report:
    """Counts over the whole corpus.

    Attributes:
        folder: the stage folder.
        rows: rows read, good and bad.
        good: pairs written.
        reasons: rows set aside or dropped, by reason.
        aspects: pairs written, by aspect.
        repeated: pairs whose responses repeated the prompt.
        in_conflict, judged: pairs whose label opposes the other true ratings, and pairs where that is known.
    """

    folder: Path
    rows: int = 0
    good: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    aspects: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    in_conflict: int = 0
    judged: int = 0

    @property
    def conflict(self) -> float | None:
        """Share of pairs in conflict, None without true ratings."""
        return self.in_conflict / self.judged if self.judged else None


def collect(datasets: list[Any]) -> list[Any]:
    """Run the data sets and return references to their blocks (Arrow tables)."""
    return [ref for dataset in datasets for ref in dataset.materialize().to_arrow_refs()]


def write(blocks: list[Any], rules: RowRules, folder: Path) -> Report:
    """Settle duplicates and spans, then write ``pairs/`` and ``quarantine/`` from the blocks.

    Of several rows with one ``pair_id`` the one with the smallest content digest stays, so the answer does not
    depend on the order of the input.
    """
    import ray

    aspects = sorted(rules.ratings)
    summaries = ray.get([ray.remote(_summarise).remote(block, aspects) for block in blocks])
    losers = _duplicates(blocks, np.concatenate([hashes for hashes, _ in summaries] or [np.empty(0, "u8")]))
    spans = _spans([extremes for _, extremes in summaries])
    for name in ("pairs", "quarantine"):
        (folder / name).mkdir()
    tasks = [
        ray.remote(_write_block).remote(block, index, losers.get(index, []), spans, rules, str(folder))
        for index, block in enumerate(blocks)
    ]
    report = Report(folder)
    for part in ray.get(tasks):
        report.rows += part.rows
        report.good += part.good
        report.reasons += part.reasons
        report.aspects += part.aspects
        report.repeated += part.repeated
        report.in_conflict += part.in_conflict
        report.judged += part.judged
    return report


def _good(block: pa.Table) -> pa.Table:
    return block.filter(pc.is_null(block["reason"]))


def _summarise(block: pa.Table, aspects: list[str]) -> tuple[np.ndarray, np.ndarray]:
    good = _good(block)
    extremes = np.array([_extremes(good, aspect) for aspect in aspects]).reshape(len(aspects), 2)
    return hash64(good["pair_id"].to_pylist()), extremes


def _extremes(table: pa.Table, aspect: str) -> tuple[float, float]:
    found = [pc.min_max(table[f"score_{side}.{aspect}"]).as_py() for side in ("chosen", "rejected")]
    lows = [side["min"] for side in found if side["min"] is not None]
    highs = [side["max"] for side in found if side["max"] is not None]
    return min(lows, default=np.inf), max(highs, default=-np.inf)


def _spans(extremes: list[np.ndarray]) -> np.ndarray:
    if not extremes:
        return np.empty(0)
    stacked = np.stack(extremes)
    spans: np.ndarray = np.maximum(stacked[:, :, 1].max(axis=0) - stacked[:, :, 0].min(axis=0), 0.0)
    return spans


def _duplicates(blocks: list[Any], hashes: np.ndarray) -> dict[int, list[int]]:
    import ray

    values, counts = np.unique(hashes, return_counts=True)
    repeated = values[counts > 1]
    if not len(repeated):
        return {}
    shared = ray.put(repeated)
    found = ray.get([ray.remote(_locate).remote(block, shared) for block in blocks])
    places = defaultdict(list)
    for index, rows in enumerate(found):
        for pair_id, content, row in rows:
            places[pair_id].append((content, index, row))
    losers: dict[int, list[int]] = defaultdict(list)
    for same_id in places.values():
        for _, index, row in sorted(same_id)[1:]:
            losers[index].append(row)
    return losers


def _locate(block: pa.Table, repeated: np.ndarray) -> list[tuple[str, str, int]]:
    good = _good(block)
    rows = np.flatnonzero(np.isin(hash64(good["pair_id"].to_pylist()), repeated))
    # Every column counts: rows that differ in any must not be told apart by their order.
    found = good.take(rows).to_pylist()
    return [
        (row.pop("pair_id"), digest(*(canonical(row[key]) for key in sorted(row))), int(place))
        for row, place in zip(found, rows, strict=True)
    ]


def _write_block(
    block: pa.Table, index: int, losers: list[int], spans: np.ndarray, rules: RowRules, folder: str
) -> Report:
    good, bad = _good(block), block.filter(pc.is_valid(block["reason"]))
    mask = np.ones(len(good), dtype=bool)
    mask[losers] = False
    set_aside = bad.select([field.name for field in BAD_FIELDS]).to_pylist()
    set_aside += [_as_quarantined(row) for row in good.filter(~mask).select(pair_schema(rules).names).to_pylist()]
    good = good.filter(pa.array(mask))
    kept = _with_conflict(good.select(pair_schema(rules).names), spans, rules)
    if len(kept):
        pq.write_table(kept, f"{folder}/pairs/part-{index:05}.parquet", row_group_size=ROWS_PER_GROUP)
    reasons = Counter(row["reason"] for row in set_aside)
    _write_quarantine(f"{folder}/quarantine/part-{index:05}.jsonl", set_aside)
    judged = pc.drop_null(kept["conflict"]).to_pylist() if rules.ratings else []
    return Report(
        Path(folder),
        rows=len(block),
        good=len(kept),
        reasons=reasons,
        aspects=Counter(kept["aspect"].to_pylist()),
        repeated=good["repeated_prompt"].to_pylist().count(True),
        in_conflict=sum(judged),
        judged=len(judged),
    )


def _as_quarantined(row: dict[str, Any]) -> dict[str, Any]:
    return {"reason": DUPLICATE, "raw": json.dumps(row), "file": None}


def _with_conflict(pairs: pa.Table, spans: np.ndarray, rules: RowRules) -> pa.Table:
    if not rules.ratings:
        return pairs
    aspects = sorted(rules.ratings)
    chosen, rejected = (
        np.stack([pairs[f"score_{side}.{aspect}"].to_numpy() for aspect in aspects], axis=1).astype(np.float64)
        for side in ("chosen", "rejected")
    )
    labels = pairs["aspect"].to_pylist()
    # An aspect that labels pairs but carries no ratings has no column to leave out.
    own = np.array([aspects.index(label) if label in aspects else len(aspects) for label in labels], dtype=int)
    padded = np.concatenate([chosen - rejected, np.full((len(labels), 1), np.nan)], axis=1)
    marks = conflicts(padded, own, np.append(spans, 1.0))
    return pairs.append_column("conflict", pa.array(marks == 1, pa.bool_(), mask=np.isnan(marks)))


def _write_quarantine(path: str, rows: list[dict[str, Any]]) -> None:
    rows = [row for row in rows if row["reason"] not in DROPPED]
    if rows:
        with open(path, "w", encoding="utf-8") as file:
            for row in rows:
                line = {"reason": row["reason"], "file": row["file"], "row": row["raw"] and json.loads(row["raw"])}
                file.write(json.dumps(line, ensure_ascii=True) + "\n")
