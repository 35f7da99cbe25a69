"""Which pairs are trained on and which are held out, and the pairs as the trainer reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pdray.alignment.inputs import PairInput
from pdray.config import AlignmentConfig
from pdray.errors import UserError


def num_held_out(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs to hold out: ⌊held_out · num_pairs⌋, cut to whole evaluation batches on every worker.

    A batch that is not full would be filled with repeated pairs, and the accuracy would count them twice. They are
    the first ones of the seeded order, so that a pair stays on its side whatever else is in the data.
    """
    wanted = int(alignment.held_out * num_pairs)
    batch = alignment.num_workers * eval_batch_size(wanted, alignment)
    return wanted - wanted % batch


def eval_batch_size(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs per worker and evaluation batch, at most ``batch_size``."""
    return max(1, min(alignment.batch_size, num_pairs // alignment.num_workers))


def step_pairs(alignment: AlignmentConfig) -> int:
    """Pairs that one optimizer step takes, of all workers."""
    return alignment.num_workers * alignment.batch_size * alignment.gradient_accumulation


def num_trained(num_pairs: int, alignment: AlignmentConfig) -> int:
    """Pairs to train on, of those that are there: ``max_steps`` may end before it has come to all.

    They are the next ones of the seeded order after those held out; what no step reads needs no reference.
    """
    rest = num_pairs - num_held_out(num_pairs, alignment)
    return min(rest, alignment.max_steps * step_pairs(alignment)) if alignment.max_steps else rest


def check_enough(train_pairs: int, alignment: AlignmentConfig) -> None:
    """Refuse a training set that does not fill one optimizer step.

    Raises:
        UserError: with the numbers and the cure.
    """
    step = step_pairs(alignment)
    if train_pairs < step:
        raise UserError(
            f"{train_pairs} pairs are left to train on, but one optimizer step takes {step} (num_workers "
            f"{alignment.num_workers} × batch_size {alignment.batch_size} × gradient_accumulation "
            f"{alignment.gradient_accumulation}); raise selection.budget or lower alignment.gradient_accumulation"
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


def with_reference(tokens: Any, logps: np.ndarray) -> Any:
    """The pairs with what the reference gives to them, under the names that TRL's trainer reads.

    Args:
        tokens: the data set of :func:`open_pairs`.
        logps: (pairs, 2) float32, chosen and rejected, in the order of rows.
    """
    from datasets import Dataset, concatenate_datasets

    columns = pa.table({"ref_chosen_logps": logps[:, 0], "ref_rejected_logps": logps[:, 1]})
    return concatenate_datasets([tokens, Dataset(columns)], axis=1)
