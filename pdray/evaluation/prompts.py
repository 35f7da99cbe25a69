"""The prompts that policy and baseline answer."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pdray.config import EvaluationConfig
from pdray.errors import UserError
from pdray.evaluation.files import as_names, as_text, read_rows
from pdray.hashing import hash64

NEEDED = "evaluation.generation.prompts needs the column prompt, strings or lists of messages"


def read_prompts(evaluation: EvaluationConfig, pairs: pa.Table, seed: int) -> pa.Table:
    """Distinct prompts, in the order of their seeded hash: with a larger ``max_prompts`` the first ones stay.

    Args:
        evaluation: its section, with ``generation``.
        pairs: the held-out pairs, whose prompts are taken where no file is named.
        seed: of the run.

    Returns:
        ``prompt``, strings or messages, and ``set``, a string or null.

    Raises:
        UserError: the file cannot be read, or holds no prompts.
    """
    generation = evaluation.generation
    assert generation is not None, "the stage asks only where answers are generated"
    if generation.prompts is None:
        table = pa.table({"prompt": pairs["prompt"], "set": pa.nulls(len(pairs), pa.string())})
    else:
        table = _read(generation.prompts)
    found: dict[str, int] = {}
    for row, prompt in enumerate(table["prompt"].to_pylist()):
        if prompt:
            found.setdefault(json.dumps(prompt, ensure_ascii=False), row)
    if not found:
        raise UserError(f"{generation.prompts or evaluation.pairs} holds no prompt with a text; {NEEDED}")
    order = hash64(found, f"{seed}/generation").argsort(kind="stable")
    rows = list(found.values())
    return table.take([rows[place] for place in order[: generation.max_prompts]])


def _read(path: str) -> pa.Table:
    rows = read_rows("evaluation.generation.prompts", path, ("prompt",), "set", NEEDED)
    prompts = as_text(path, "prompt", [row.get("prompt") for row in rows], NEEDED)
    return pa.table({"prompt": prompts, "set": as_names(path, "set", rows)})


def as_conversation(answers: list[str], conversational: bool) -> list[Any]:
    """Answers of the type that responses to such prompts have."""
    return [[{"role": "assistant", "content": text}] for text in answers] if conversational else list(answers)
