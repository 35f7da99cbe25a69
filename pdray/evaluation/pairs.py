"""Held-out preference pairs from a file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pdray.errors import UserError
from pdray.evaluation.files import as_names, as_text, read_rows
from pdray.hashing import hash64

TEXTS = ("prompt", "chosen", "rejected")
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
    rows = read_rows("evaluation.pairs", path, TEXTS, "aspect", NEEDED)
    columns = {name: as_text(path, name, [row.get(name) for row in rows], NEEDED) for name in TEXTS}
    if len({column.type for column in columns.values()}) > 1:
        raise UserError(f"{path} has strings in some of its columns and messages in others; {NEEDED}")
    columns["aspect"] = as_names(path, "aspect", rows)
    pairs = pa.table(columns)
    for name in TEXTS:
        pairs = pairs.filter(pc.is_valid(pairs[name]))
    if not len(pairs):
        raise UserError(f"{path} holds no pair with prompt, chosen and rejected; {NEEDED}")
    order = hash64(map(str, range(len(pairs))), f"{seed}/evaluation").argsort(kind="stable")
    return pairs.take(sorted(order[:most].tolist())), len(rows)
