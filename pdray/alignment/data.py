"""The kept pairs as the trainer reads them, in an order that does not depend on how they were stored."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from pdray.config import AlignmentConfig
from pdray.errors import UserError
from pdray.schema import KEPT
from pdray.shards import ShardedFolder

COLUMNS = ["pair_id", "prompt", "chosen", "rejected"]


def read_kept(selection: ShardedFolder) -> pa.Table:
    """Every kept pair, sorted by ``pair_id``, with the columns :data:`COLUMNS`.

    Raises:
        UserError: there is none, or a shard is gone or damaged.
    """
    tables = [selection.read(KEPT, shard, COLUMNS) for shard in range(selection.num_shards)]
    tables = [table for table in tables if table.num_rows]
    if not tables:
        raise UserError(f"no kept pair in {selection.folder}; raise selection.budget")
    return pa.concat_tables(tables).replace_schema_metadata(None).sort_by("pair_id")


def is_chat(table: pa.Table) -> bool:
    """Whether the texts are lists of messages rather than strings."""
    kind = table.schema.field("prompt").type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def num_held_out(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs to hold out: ⌊held_out · num_pairs⌋, cut to whole evaluation batches on every worker.

    A batch that is not full would be filled with repeated pairs, and the accuracy would count them twice.
    """
    wanted = int(alignment.held_out * num_pairs)
    batch = alignment.num_workers * eval_batch_size(wanted, alignment)
    return wanted - wanted % batch


def eval_batch_size(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs per worker and evaluation batch, at most ``batch_size``."""
    return max(1, min(alignment.batch_size, num_pairs // alignment.num_workers))


def split(pair_ids: list[str], alignment: AlignmentConfig, seed: int) -> tuple[list[int], list[int]]:
    """Positions to train on and positions held out, both ascending.

    The held-out pairs are those with the smallest hash of seed and ``pair_id``, so that a pair stays on its
    side whatever else is in the data.

    Raises:
        UserError: fewer pairs remain than one optimizer step takes.
    """
    count = num_held_out(len(pair_ids), alignment)
    by_hash = sorted(range(len(pair_ids)), key=lambda i: hashlib.sha256(f"{seed}:{pair_ids[i]}".encode()).digest())
    train, held_out = sorted(by_hash[count:]), sorted(by_hash[:count])
    check_enough(len(train), alignment)
    return train, held_out


def check_enough(train_pairs: int, alignment: AlignmentConfig) -> None:
    """Refuse a training set that does not fill one optimizer step.

    Raises:
        UserError: with the numbers and the cure.
    """
    step = alignment.num_workers * alignment.batch_size * alignment.gradient_accumulation
    if train_pairs < step:
        raise UserError(
            f"{train_pairs} pairs are left to train on, but one optimizer step takes {step} (num_workers "
            f"{alignment.num_workers} × batch_size {alignment.batch_size} × gradient_accumulation "
            f"{alignment.gradient_accumulation}); raise selection.budget or lower alignment.gradient_accumulation"
        )


def num_truncated(prepared: Any, max_tokens: int) -> int:
    """Pairs of a tokenised data set of which something is cut off: prompt and longer response above ``max_tokens``."""
    longest = (
        len(prompt) + max(len(chosen), len(rejected))
        for prompt, chosen, rejected in zip(
            prepared["prompt_ids"], prepared["chosen_ids"], prepared["rejected_ids"], strict=True
        )
    )
    return sum(length > max_tokens for length in longest)
