"""Held-out preference pairs from a file."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from pdray.corpus.read import is_messages
from pdray.corpus.rows import BadRowError, RowRules, row_texts
from pdray.errors import UserError
from pdray.evaluation.files import as_names, read_rows
from pdray.hashing import hash64
from pdray.schema import text_type

TEXTS = ("prompt", "chosen", "rejected")
BEYOND = "beyond evaluation.max_pairs"
NEEDED = "evaluation.pairs needs the columns prompt, chosen and rejected, strings or lists of messages"


def read_pairs(path: str, most: int, seed: int) -> tuple[pa.Table, dict[str, int]]:
    """The held-out pairs, whose texts are read as those of the corpus.

    Args:
        path: a ``.jsonl`` or ``.parquet`` file.
        most: pairs to return; those with the smallest seeded hash of their number.
        seed: of the run.

    Returns:
        ``prompt``, ``chosen``, ``rejected``, all strings or all messages, and ``aspect``, a string or null, in the
        order of the file; and how many rows were left out, by the rule of the corpus that they break, or beyond
        ``most``.

    Raises:
        UserError: the file cannot be read, or holds no such pair.
    """
    rows = read_rows("evaluation.pairs", path, TEXTS, "aspect", NEEDED)
    conversational = any(is_messages(row.get(name)) for row in rows for name in TEXTS)
    rules = RowRules({name: name for name in TEXTS}, conversational=conversational)
    found, left_out = [], Counter[str]()
    for row in rows:
        try:
            prompt, (chosen, rejected), _ = row_texts(row, TEXTS[1:], rules)
            found.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "aspect": row.get("aspect")})
        except BadRowError as error:
            left_out[str(error)] += 1
    if not found:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common(3))
        raise UserError(f"{path} holds no pair ({reasons or 'no rows'}); {NEEDED}")
    columns = {name: pa.array([row[name] for row in found], text_type(conversational)) for name in TEXTS}
    pairs = pa.table(columns | {"aspect": as_names(path, "aspect", found)})
    order = hash64(map(str, range(len(pairs))), f"{seed}/evaluation").argsort(kind="stable")
    left_out[BEYOND] = max(0, len(pairs) - most)
    return pairs.take(sorted(order[:most].tolist())), dict(left_out)
