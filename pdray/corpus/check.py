"""Blocks of raw rows to blocks of checked pairs, all of one schema, bad rows with their reason beside them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.corpus.lines import ROWS_PER_BLOCK, UNREADABLE
from pdray.corpus.read import raw_rows
from pdray.corpus.rows import (
    DROPPED,
    EQUAL_RATINGS,
    BadRowError,
    NotDecodable,
    RowRules,
    canonical,
    check_pair,
    check_rated_pair,
    check_response,
    pairs_of_responses,
)
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.progress import Counter
from pdray.schema import text_type

PROMPT_KEY = "prompt_key"
PLACE = "place"
PLACE_SALT = "shard"


def pair_schema(rules: RowRules) -> pa.Schema:
    """A pair with its texts, before it goes to its shard."""
    text = text_type(rules.conversational)
    ratings = [(f"score_{side}.{aspect}", pa.float64()) for aspect in sorted(rules.ratings) for side in SIDES]
    texts = [(name, text) for name in ("prompt", "chosen", "rejected")]
    plain = [(name, pa.string()) for name in ("aspect", *rules.carried)]
    return pa.schema([("pair_id", pa.string()), *texts, *plain, *ratings])


SIDES = ("chosen", "rejected")
# Filled for a row that is no pair: why, the row itself as JSON, and the file it came from.
BAD_FIELDS = [pa.field("reason", pa.string()), pa.field("raw", pa.string()), pa.field("file", pa.string())]
CHECK_FIELDS = [*BAD_FIELDS, pa.field("repeated_prompt", pa.bool_())]


def checked_schema(rules: RowRules) -> pa.Schema:
    """The corpus columns and those of the check.

    ``given_id`` tells a ``pair_id`` of the user's from one made of the content. ``place`` is a 64-bit hash, of the
    prompt of a pair and of the content of any other row, that decides the shard.
    """
    return pa.schema([*pair_schema(rules), *CHECK_FIELDS, ("given_id", pa.bool_()), (PLACE, pa.uint64())])


def check_pairs(table: pa.Table, rules: RowRules, rated: bool, counter: Counter) -> pa.Table:
    """Check a block of kind ``pairs``, or of rated pairs, one row in for one row out."""
    rows = []
    for raw, file in raw_rows(table, rules.partition_columns):
        try:
            _readable(raw, file, rules)
            pair = check_rated_pair(raw, rules) if rated else check_pair(raw, rules)
            given = rules.columns["pair_id"] in raw
            rows.append(pair | {"given_id": given} if pair else _set_aside(EQUAL_RATINGS, raw, file))
        except BadRowError as error:
            rows.append(_set_aside(str(error), raw, file))
    counter.add(len(rows))
    return _placed(rows, rules)


def check_responses(table: pa.Table, rules: RowRules, counter: Counter) -> pa.Table:
    """Check a block of rated responses; good rows get the key that brings the responses of a prompt together."""
    rows = []
    for raw, file in raw_rows(table, rules.partition_columns):
        try:
            _readable(raw, file, rules)
            row = check_response(raw, rules)
            rows.append(row | {PROMPT_KEY: canonical(row["prompt"])})
        except BadRowError as error:
            rows.append(_set_aside(str(error), raw, file))
    counter.add(len(rows))
    return pa.Table.from_pylist(rows, schema=_response_schema(rules))


def pair_responses(table: pa.Table, rules: RowRules) -> Iterator[pa.Table]:
    """The pairs of the responses in a block that has every response to its prompts, those of some prompts at a time."""
    names = [PROMPT_KEY, "prompt", "response", *rules.carried, *_rating_names(rules)]
    good = table.filter(pc.is_null(table["reason"])).select(names).sort_by(PROMPT_KEY)
    for part in _of_whole_prompts(good):
        responses: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in part.to_pylist():
            responses[row.pop(PROMPT_KEY)].append(row)
        rows = [
            row | {PLACE: place}
            for place, alike in zip(_places(list(responses)).tolist(), responses.values(), strict=True)
            for row in pairs_of_responses(alike, rules)
        ]
        yield pa.Table.from_pylist(rows, schema=checked_schema(rules))


def _of_whole_prompts(rows: pa.Table) -> Iterator[pa.Table]:
    """Sorted rows in parts of :data:`ROWS_PER_BLOCK` or a prompt's more; one part where there are none."""
    ends = pc.run_end_encode(rows[PROMPT_KEY].combine_chunks()).run_ends.to_numpy()
    start = 0
    while start < len(rows):
        end = int(ends[min(np.searchsorted(ends, start + ROWS_PER_BLOCK), len(ends) - 1)])
        yield rows.slice(start, end - start)
        start = end
    if not len(rows):
        yield rows


def bad_responses(table: pa.Table, rules: RowRules) -> pa.Table:
    """The responses of a block that broke a rule, as rows of the checked schema."""
    rows = table.select([field.name for field in BAD_FIELDS]).to_pylist()
    return _placed([row for row in rows if row["reason"]], rules)


def _placed(rows: list[dict[str, Any]], rules: RowRules) -> pa.Table:
    keys = [canonical(row["prompt"]) if "prompt" in row else canonical([row["reason"], row["raw"]]) for row in rows]
    for row, place in zip(rows, _places(keys).tolist(), strict=True):
        row[PLACE] = place
        if row.get("reason") in DROPPED:
            row["raw"] = None  # counted, written nowhere
    return pa.Table.from_pylist(rows, schema=checked_schema(rules))


def _places(keys: list[str]) -> np.ndarray:
    return hash64(keys, PLACE_SALT)


def _response_schema(rules: RowRules) -> pa.Schema:
    text = text_type(rules.conversational)
    plain = [(name, pa.string()) for name in (*rules.carried, PROMPT_KEY)]
    ratings = [(name, pa.float64()) for name in _rating_names(rules)]
    return pa.schema([("prompt", text), ("response", text), *plain, *ratings, *CHECK_FIELDS])


def _rating_names(rules: RowRules) -> Iterable[str]:
    return [f"rating.{aspect}" for aspect in sorted(rules.ratings)]


def _readable(raw: dict[str, Any], file: str | None, rules: RowRules) -> None:
    if UNREADABLE in raw:
        raise BadRowError(raw[UNREADABLE])
    if late := rules.late_column(raw):
        kind = "licence" if late == rules.columns.get("license") else "rating"
        raise UserError(
            f"{file or 'the corpus'} has the {kind} {late!r}, which none of the first rows has, so that it would not "
            f"count; write it into the first row as well, null where there is no {kind}"
        )


def _set_aside(reason: str, raw: dict[str, Any], file: str | None) -> dict[str, Any]:
    return {"reason": reason, "raw": json.dumps(raw, default=_printable), "file": file}


def _printable(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "<not UTF-8>" if isinstance(value, NotDecodable) else str(value)
