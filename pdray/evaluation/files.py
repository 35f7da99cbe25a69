"""Prompts and responses that a user brings in a file, few enough for the driver."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdray.corpus.lines import UNREADABLE, parse_line
from pdray.corpus.read import raw_rows
from pdray.errors import UserError
from pdray.schema import MESSAGES

MOST_BYTES = 2**30


def read_rows(setting: str, path: str, texts: tuple[str, ...], name: str, needed: str) -> list[dict[str, Any]]:
    """The rows of a ``.jsonl`` or ``.parquet`` file; what further columns hold is not looked at.

    Args:
        setting: that names it, for messages.
        path: of the file.
        texts: columns that it needs.
        name: a column that it may have.
        needed: a sentence about the columns.

    Returns:
        dictionaries of those columns; a value may be missing.

    Raises:
        UserError: it cannot be read, is too large, or lacks a column.
    """
    try:
        if (size := os.path.getsize(path)) > MOST_BYTES:
            raise UserError(
                f"{setting} {path} has {size / 2**30:.1f} GiB, but the driver reads it whole; some thousand rows are "
                "enough, so write a file of at most 1 GiB"
            )
        if path.endswith(".parquet"):
            rows, columns = _of_parquet(path, (*texts, name))
        elif path.endswith(".jsonl"):
            rows, columns = _of_lines(setting, path, (*texts, name))
        else:
            raise UserError(f"{setting} is {path}, whose name ends neither with .jsonl nor with .parquet; convert it")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{setting} {path} cannot be read ({str(error).splitlines()[0]})") from None
    if missing := [text for text in texts if text not in columns]:
        raise UserError(f"{path} has no column {', '.join(missing)} but {', '.join(columns)}; {needed}")
    return rows


def _of_parquet(path: str, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[str]]:
    table = pq.read_table(path)
    columns: list[str] = table.column_names
    some = table.select([name for name in names if name in columns])
    return [row for row, _ in raw_rows(some)], columns


def _of_lines(setting: str, path: str, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[str]]:
    # Line by line as the corpus does: Arrow's reader wants one type in every column, also where nobody reads it.
    columns: dict[str, None] = {}
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = parse_line(line)
            if UNREADABLE in row:
                raise UserError(f"{setting} {path} cannot be read (line {number}: {row[UNREADABLE]}); mend that line")
            columns |= dict.fromkeys(row)
            rows.append({name: row[name] for name in names if name in row})
    if not rows:
        raise UserError(f"{setting} {path} cannot be read (it is empty); write rows into it")
    return rows, list(columns)


def as_text(path: str, name: str, values: list[Any], needed: str) -> pa.Array:
    """A column as strings, or as lists of messages.

    Raises:
        UserError: it is neither; ``needed`` says what would be.
    """
    for kind in (pa.string(), MESSAGES):
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, ValueError):  # a ValueError: half of a surrogate pair
            continue
    raise UserError(f"the column {name} of {path} holds something else than texts of one kind; {needed}")


def as_names(path: str, name: str, rows: list[dict[str, Any]]) -> pa.Array:
    """A column of names, null where a row has none.

    Raises:
        UserError: it holds no names.
    """
    try:
        return pa.array([row.get(name) for row in rows]).cast(pa.string())
    except (pa.ArrowException, ValueError, OverflowError):  # an OverflowError: an endless number
        raise UserError(f"the column {name} of {path} must hold names, strings or null alone") from None
