"""Blocks of raw rows to blocks of checked pairs, all of one schema, bad rows with their reason beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pdray.corpus.read import UNREADABLE, raw_rows
from pdray.corpus.rows import (
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
from pdray.progress import Counter

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PROMPT_KEY = "prompt_key"


def pair_schema(rules: RowRules) -> pa.Schema:
    """Columns of the corpus (DESIGN: corpus schema), without those of the check."""
    text = MESSAGES if rules.conversational else pa.string()
    ratings = [(f"score_{side}.{aspect}", pa.float64()) for aspect in sorted(rules.ratings) for side in SIDES]
    texts = [(name, text) for name in ("prompt", "chosen", "rejected")]
    plain = [(name, pa.string()) for name in ("aspect", "overall", "source")]
    return pa.schema([("pair_id", pa.string()), *texts, *plain, *ratings])


SIDES = ("chosen", "rejected")
# Filled for a row that is no pair: why, the row itself as JSON, and the file it came from.
BAD_FIELDS = [pa.field("reason", pa.string()), pa.field("raw", pa.string()), pa.field("file", pa.string())]
CHECK_FIELDS = [*BAD_FIELDS, pa.field("repeated_prompt", pa.bool_())]


def checked_schema(rules: RowRules) -> pa.Schema:
    """The corpus columns and those of the check."""
    return pa.schema([*pair_schema(rules), *CHECK_FIELDS])


def check_pairs(table: pa.Table, rules: RowRules, rated: bool, counter: Counter) -> pa.Table:
    """Check a block of kind ``pairs``, or of rated pairs, one row in for one row out."""
    rows = []
    for raw, file in raw_rows(table, rules.partition_columns):
        try:
            _readable(raw)
            pair = check_rated_pair(raw, rules) if rated else check_pair(raw, rules)
            rows.append(pair or _set_aside(EQUAL_RATINGS, raw, file))
        except BadRowError as error:
            rows.append(_set_aside(str(error), raw, file))
    counter.add(len(rows))
    return pa.Table.from_pylist(rows, schema=checked_schema(rules))


def check_responses(table: pa.Table, rules: RowRules, counter: Counter) -> pa.Table:
    """Check a block of rated responses; good rows get the key that brings the responses of a prompt together."""
    rows = []
    for raw, file in raw_rows(table, rules.partition_columns):
        try:
            _readable(raw)
            row = check_response(raw, rules)
            rows.append(row | {PROMPT_KEY: canonical(row["prompt"])})
        except BadRowError as error:
            rows.append(_set_aside(str(error), raw, file))
    counter.add(len(rows))
    return pa.Table.from_pylist(rows, schema=_response_schema(rules))


def pair_responses(table: pa.Table, rules: RowRules) -> pa.Table:
    """The pairs of one prompt's responses."""
    responses = table.select(["prompt", "response", "overall", "source", *_rating_names(rules)]).to_pylist()
    return pa.Table.from_pylist(pairs_of_responses(responses, rules), schema=checked_schema(rules))


def bad_responses(table: pa.Table, rules: RowRules) -> pa.Table:
    """The responses of a block that broke a rule, as rows of the checked schema."""
    rows = table.select(["reason", "raw", "file"]).to_pylist()
    return pa.Table.from_pylist([row for row in rows if row["reason"]], schema=checked_schema(rules))


def _response_schema(rules: RowRules) -> pa.Schema:
    text = MESSAGES if rules.conversational else pa.string()
    plain = [(name, pa.string()) for name in ("overall", "source", PROMPT_KEY)]
    ratings = [(name, pa.float64()) for name in _rating_names(rules)]
    return pa.schema([("prompt", text), ("response", text), *plain, *ratings, *CHECK_FIELDS])


def _rating_names(rules: RowRules) -> Iterable[str]:
    return [f"rating.{aspect}" for aspect in sorted(rules.ratings)]


def _readable(raw: dict[str, Any]) -> None:
    if UNREADABLE in raw:
        raise BadRowError(raw[UNREADABLE])


def _set_aside(reason: str, raw: dict[str, Any], file: str | None) -> dict[str, Any]:
    return {"reason": reason, "raw": json.dumps(raw, default=_printable), "file": file}


def _printable(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "<not UTF-8>" if isinstance(value, NotDecodable) else str(value)
