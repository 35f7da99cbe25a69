"""Tables of prompts and responses that a user brings, small enough for the driver."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from pdray.errors import UserError
from pdray.schema import MESSAGES

MOST_BYTES = 2**30


def read_file(setting: str, path: str) -> pa.Table:
    """A ``.jsonl`` or ``.parquet`` file.

    Args:
        setting: that names it, for messages.
        path: of the file.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    try:
        if (size := os.path.getsize(path)) > MOST_BYTES:
            raise UserError(
                f"{setting} {path} has {size / 2**30:.1f} GiB, but the driver reads it whole; some thousand rows are "
                "enough, so write a file of at most 1 GiB"
            )
        if path.endswith(".parquet"):
            return pq.read_table(path)
        if path.endswith(".jsonl"):
            return pj.read_json(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{setting} {path} cannot be read ({str(error).splitlines()[0]})") from None
    raise UserError(f"{setting} is {path}, whose name ends neither with .jsonl nor with .parquet; convert it")


def as_text(path: str, name: str, column: pa.ChunkedArray, needed: str) -> pa.ChunkedArray:
    """A column as strings, or as lists of messages.

    Raises:
        UserError: it is neither; ``needed`` says what would be.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    try:
        return column.cast(MESSAGES)
    except pa.ArrowException:
        raise UserError(f"the column {name} of {path} is {column.type}; {needed}") from None


def as_names(path: str, name: str, table: pa.Table) -> pa.ChunkedArray | pa.Array:
    """A column of names, null where the table has none.

    Raises:
        UserError: it holds no names.
    """
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    try:
        return table[name].cast(pa.string())
    except pa.ArrowException:
        raise UserError(f"the column {name} of {path} is {table[name].type} but must hold names") from None
