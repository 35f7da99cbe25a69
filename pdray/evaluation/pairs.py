"""Held-out preference pairs from a file."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.schema import MESSAGES

TEXTS = ("prompt", "chosen", "rejected")
MOST_BYTES = 2**30
NEEDED = "evaluation.pairs needs the columns prompt, chosen and rejected, all strings or all lists of messages"


def read_pairs(path: str, most: int, seed: int) -> tuple[pa.Table, int]:
    """The held-out pairs.

    Args:
        path: a ``.jsonl`` or ``.parquet`` file.
        most: pairs to return; those with the smallest seeded hash of their number.
        seed: of the run.

    Returns:
        ``prompt``, ``chosen``, ``rejected``, strings or messages, and ``aspect``, a string or null, in the order of the
        file, without those that lack a text; and how many rows the file has.

    Raises:
        UserError: the file cannot be read, or does not hold such pairs.
    """
    table = _read(path)
    missing = [name for name in TEXTS if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)} but {', '.join(table.column_names)}; {NEEDED}")
    columns = {name: _as_text(path, name, table[name]) for name in TEXTS}
    if len({column.type for column in columns.values()}) > 1:
        raise UserError(f"{path} has strings in some of its columns and messages in others; {NEEDED}")
    aspect = table["aspect"] if "aspect" in table.column_names else pa.nulls(len(table), pa.string())
    try:
        columns["aspect"] = aspect.cast(pa.string())
    except pa.ArrowException:
        raise UserError(f"the column aspect of {path} is {aspect.type} but must hold names") from None
    pairs = pa.table(columns)
    for name in TEXTS:
        pairs = pairs.filter(pc.is_valid(pairs[name]))
    if not len(pairs):
        raise UserError(f"{path} holds no pair with prompt, chosen and rejected; {NEEDED}")
    order = hash64(map(str, range(len(pairs))), f"{seed}/evaluation").argsort(kind="stable")
    return pairs.take(sorted(order[:most].tolist())), len(table)


def _read(path: str) -> pa.Table:
    try:
        if (size := os.path.getsize(path)) > MOST_BYTES:
            raise UserError(
                f"evaluation.pairs {path} has {size / 2**30:.1f} GiB, but the driver reads it whole; some thousand "
                "pairs are enough, so write a file of at most 1 GiB"
            )
        if path.endswith(".parquet"):
            return pq.read_table(path)
        if path.endswith(".jsonl"):
            return pj.read_json(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"evaluation.pairs {path} cannot be read ({str(error).splitlines()[0]})") from None
    raise UserError(f"evaluation.pairs is {path}, whose name ends neither with .jsonl nor with .parquet; convert it")


def _as_text(path: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    try:
        return column.cast(MESSAGES)
    except pa.ArrowException:
        raise UserError(f"the column {name} of {path} is {column.type}; {NEEDED}") from None
