"""The rows of one shard to its files: distinct texts, pairs that refer to them, and the rows set aside."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.corpus.check import BAD_FIELDS, PLACE, SIDES, pair_schema
from pdray.corpus.conflict import conflicts
from pdray.corpus.duplicates import SHARD, winners
from pdray.corpus.rows import DROPPED, RowRules, canonical
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.progress import Counter as ProgressCounter
from pdray.schema import PAIRS, TEXTS, UNLICENSED, dictionary_columns, pairs_schema
from pdray.shards import ShardedFolder, deadline, error_text
from pdray.texts import text_tables

DUPLICATE = "duplicate pair_id"
QUARANTINE = "quarantine"
SHARD_SECONDS = 1800.0
OUTCOME = pa.schema([("shard", pa.int32()), ("error", pa.string())])


@dataclass(frozen=True)
class ShardTask:
    """What a shard is written by; picklable.

    Attributes:
        shards: where they go.
        rules: of the corpus.
        spans: (κ,) float64, largest minus smallest true rating of each aspect, sorted, over the whole corpus.
        counter: of finished shards.
    """

    shards: ShardedFolder
    rules: RowRules
    spans: np.ndarray
    counter: ProgressCounter


def write_shards(rows: pa.Table, task: ShardTask) -> pa.Table:
    """Write some shards, and say how it went.

    Args:
        rows: of whole shards, in any order: the checked schema and ``shard``. A row without a place only names what
            its shard has to know: that it exists, and by ``pair_id`` an id that is kept in another shard.
        task: see :class:`ShardTask`.

    Returns:
        :data:`OUTCOME`, one row for each shard.
    """
    found = []
    for shard in sorted(rows[SHARD].unique().to_pylist()):
        error = None
        try:
            with task.counter.working(f"shard {shard}"), deadline(SHARD_SECONDS):
                _write(shard, rows.filter(pc.equal(rows[SHARD], shard)), task)
            task.counter.add(1)
        except UserError:
            raise
        except Exception as reason:  # the shard is tried again, the others must not fail with it
            error = error_text(reason)
        found.append({"shard": shard, "error": error})
    return pa.Table.from_pylist(found, schema=OUTCOME)


def _write(shard: int, rows: pa.Table, task: ShardTask) -> None:
    rules = task.rules
    is_row = pc.is_valid(rows[PLACE])
    lost = set(rows.filter(pc.invert(is_row))["pair_id"].drop_null().to_pylist())
    rows = rows.filter(is_row)
    pairs = rows.filter(pc.is_null(rows["reason"]))
    bad = rows.filter(pc.is_valid(rows["reason"])).select([field.name for field in BAD_FIELDS]).to_pylist()
    stays = pa.array(winners(pairs, rules, lost))
    beaten = pairs.filter(pc.invert(stays)).select(pair_schema(rules).names).to_pylist()
    bad += [{"reason": DUPLICATE, "raw": json.dumps(row), "file": None} for row in beaten]
    pairs = pairs.filter(stays).sort_by("pair_id")
    tables = shard_tables(pairs, rules, task.spans)
    judged = tables[PAIRS]["conflict"].drop_null().to_pylist() if rules.ratings else []
    task.shards.write(
        shard,
        tables,
        ids_sum=int(hash64(pairs["pair_id"].to_pylist()).sum(dtype=np.uint64)),
        facts={
            "rows": len(rows),
            "pairs": len(pairs),
            "texts": len(tables[TEXTS]),
            "reasons": dict(sorted(Counter(row["reason"] for row in bad).items())),
            "aspects": dict(sorted(Counter(pairs["aspect"].to_pylist()).items())),
            "repeated": pairs["repeated_prompt"].to_pylist().count(True),
            "preferred": sum(label in SIDES for label in pairs["overall"].to_pylist()),
            "in_conflict": sum(judged),
            "judged": len(judged),
            **({"licenses": licenses(pairs)} if rules.licensed else {}),
        },
        lines={QUARANTINE: quarantined(bad)},
        use_dictionary=dictionary_columns(tables),
    )


def licenses(pairs: pa.Table) -> dict[str, int]:
    """Pairs under each licence; of those that name none, under ``unknown``."""
    return dict(sorted(Counter(name or UNLICENSED for name in pairs["license"].to_pylist()).items()))


def shard_tables(pairs: pa.Table, rules: RowRules, spans: np.ndarray) -> dict[str, pa.Table]:
    """The tables of a shard.

    Args:
        pairs: of the shard, with their texts, sorted by ``pair_id``.
        rules: of the corpus.
        spans: see :class:`ShardTask`.

    Returns:
        ``prompts``, ``texts`` and ``pairs`` of :mod:`pdray.schema`.
    """
    prompts = pairs["prompt"].to_pylist()
    prompt_keys = [canonical(prompt) for prompt in prompts]
    texts: dict[tuple[str, str], tuple[Any, Any]] = {}
    keys: dict[str, list[tuple[str, str]]] = {}
    for side in SIDES:
        responses = pairs[side].to_pylist()
        keys[side] = list(zip(prompt_keys, map(canonical, responses), strict=True))
        texts.update(zip(keys[side], zip(prompts, responses, strict=True), strict=True))
    row_of = {key: row for row, key in enumerate(sorted(texts))}
    rated = sorted(rules.ratings)
    refers = {f"{side}_row": pa.array([row_of[key] for key in keys[side]], pa.int32()) for side in SIDES}
    conflict = {"conflict": conflict_column(pairs, rated, spans)} if rated else {}
    schema = pairs_schema(rated, rules.licensed)
    found = {**{name: pairs[name] for name in schema.names if name in pairs.column_names}, **refers, **conflict}
    distinct = [texts[key] for key in row_of]
    prompts, responses = [text[0] for text in distinct], [text[1] for text in distinct]
    return {
        **text_tables(prompts, responses, rules.conversational),
        PAIRS: pa.table([found[name] for name in schema.names], schema=schema),
    }


def conflict_column(pairs: pa.Table, rated: list[str], spans: np.ndarray) -> pa.Array:
    """Whether each pair's label opposes its other true ratings, null where that is not known.

    Args:
        pairs: with their true ratings.
        rated: aspects with true ratings, sorted.
        spans: see :class:`ShardTask`.
    """
    chosen, rejected = (
        np.stack([pairs[f"score_{side}.{aspect}"].to_numpy() for aspect in rated], axis=1).astype(np.float64)
        for side in SIDES
    )
    labels = pairs["aspect"].to_pylist()
    # An aspect that labels pairs but carries no ratings has no column to leave out.
    own = np.array([rated.index(label) if label in rated else len(rated) for label in labels], dtype=int)
    padded = np.concatenate([chosen - rejected, np.full((len(labels), 1), np.nan)], axis=1)
    marks = conflicts(padded, own, np.append(spans, 1.0))
    return pa.array(marks == 1, pa.bool_(), mask=np.isnan(marks))


def quarantined(rows: list[dict[str, Any]]) -> list[str]:
    """The rows that are set aside as JSON objects: ``reason``, ``file`` and ``row``."""
    return sorted(
        json.dumps({"reason": row["reason"], "file": row["file"], "row": row["raw"] and json.loads(row["raw"])})
        for row in rows
        if row["reason"] not in DROPPED
    )
