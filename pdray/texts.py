"""The texts of a shard of the corpus: every prompt once, and below it every response once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pdray.schema import PROMPTS, TEXTS, prompts_schema, texts_schema
from pdray.shards import ShardedFolder


def text_tables(prompts: list[Any], responses: list[Any], conversational: bool) -> dict[str, pa.Table]:
    """The tables ``prompts`` and ``texts`` of a shard.

    Args:
        prompts: of each text; equal ones stand beside one another.
        responses: of each text.
        conversational: whether both are lists of messages.
    """
    is_new = [row == 0 or prompt != prompts[row - 1] for row, prompt in enumerate(prompts)]
    distinct = [prompt for prompt, first in zip(prompts, is_new, strict=True) if first]
    rows = pa.array(np.cumsum(is_new, dtype=np.int32) - 1, pa.int32())
    return {
        PROMPTS: pa.table({"prompt": distinct}, schema=prompts_schema(conversational)),
        TEXTS: pa.table({"prompt_row": rows, "response": responses}, schema=texts_schema(conversational)),
    }


def read_texts(corpus: ShardedFolder, shard: int, rows: np.ndarray | None = None) -> pa.Table:
    """Texts of a shard, ``prompt`` and ``response``, all of them or those of some row numbers.

    Raises:
        UserError, OSError: as :meth:`~pdray.shards.ShardedFolder.read`.
    """
    texts = corpus.read(TEXTS, shard)
    if rows is not None:
        texts = texts.take(pa.array(rows))
    prompts = corpus.read(PROMPTS, shard)["prompt"].take(texts["prompt_row"])
    return pa.table({"prompt": prompts, "response": texts["response"]})
