"""Which pairs are trained on and which are held out, and the pairs as the trainer reads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.alignment.inputs import PairInput
from pdray.config import AlignmentConfig
from pdray.errors import UserError


def num_held_out(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs to hold out: ⌊held_out · num_pairs⌋, the first ones of the seeded order.

    So a pair stays on its side whatever else is in the data and however many workers there are.
    """
    return int(alignment.held_out * num_pairs)


def num_evaluated(held_out: int, alignment: AlignmentConfig, num_workers: int) -> int:
    """Pairs to evaluate on, of those held out: as many as fill whole batches on every worker.

    A batch that is not full would be filled with repeated pairs, and the accuracy would count them twice.
    """
    return held_out - held_out % (num_workers * eval_batch_size(held_out, alignment, num_workers))


def eval_batch_size(held_out: int, alignment: AlignmentConfig, num_workers: int) -> int:
    """Pairs per worker and evaluation batch, at most ``batch_size``."""
    return max(1, min(alignment.batch_size, held_out // num_workers))


def accumulation(alignment: AlignmentConfig, num_workers: int) -> int:
    """Forward passes per optimizer step: rounded up where ``pairs_per_step`` is no multiple of what a pass takes."""
    return -(-alignment.pairs_per_step // (num_workers * alignment.batch_size))


def num_steps(train_pairs: int, alignment: AlignmentConfig) -> int:
    """Optimizer steps of the whole training, the same for any number of workers."""
    return alignment.max_steps or math.ceil(alignment.epochs * math.ceil(train_pairs / alignment.pairs_per_step))


def num_trained(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs to train on, of those that are there: ``max_steps`` may end before it has come to all.

    They are the next ones of the seeded order after those held out; what no step reads needs no reference.
    """
    rest = num_pairs - num_held_out(num_pairs, alignment)
    return min(rest, alignment.max_steps * alignment.pairs_per_step) if alignment.max_steps else rest


def check_enough(train_pairs: int, alignment: AlignmentConfig) -> None:
    """Refuse a training set that does not fill one optimizer step.

    Raises:
        UserError: with the numbers and the cure.
    """
    if train_pairs < alignment.pairs_per_step:
        raise UserError(
            f"{train_pairs} pairs are left to train on, but one optimizer step takes alignment.pairs_per_step "
            f"{alignment.pairs_per_step}; lower it or raise selection.budget"
        )


def read_order(pairs: PairInput) -> dict[str, np.ndarray]:
    """The columns of :data:`~pdray.schema.ORDER`, (pairs,) each, as maps of the file."""
    with pa.memory_map(pairs.order) as source:
        table = pa.ipc.open_stream(source).read_all()
    return {name: table[name].chunk(0).to_numpy() for name in table.column_names}


def open_pairs(pairs: PairInput) -> Any:
    """The tokens of all pairs as one ``datasets.Dataset``, in the order of rows; its files are mapped, not read."""
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets([Dataset.from_file(path) for path in pairs.tokens])


def with_columns(tokens: Any, rows: np.ndarray, columns: dict[str, np.ndarray]) -> Any:
    """The pairs with numbers beside their tokens.

    Args:
        tokens: the data set of :func:`open_pairs`.
        rows: (n,) rows of the pairs whose numbers are known; those of other pairs are NaN.
        columns: name -> (n,) float32, in the order of ``rows``.
    """
    from datasets import Dataset, concatenate_datasets

    known = {name: np.full(len(tokens), np.nan, np.float32) for name in columns}
    for name, values in columns.items():
        known[name][rows] = values
    return concatenate_datasets([tokens, Dataset(pa.table(known))], axis=1)
