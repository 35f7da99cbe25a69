"""Where a training goes on: the last complete checkpoint, read as it is or made fit for another number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pdray.alignment import checkpoints
from pdray.alignment.universal import convert
from pdray.alignment.weights_only import check_checkpoint
from pdray.errors import UserError, reason


@dataclass(frozen=True)
class Resume:
    """Where a training goes on.

    Attributes:
        path: the checkpoint, None at the start.
        universal: whether it is read in the universal format, because another number of workers wrote it.
    """

    path: Path | None = None
    universal: bool = False

    @property
    def step(self) -> int | None:
        """Steps that were made before, None at the start."""
        return checkpoints.step_of(self.path) if self.path else None


def agree_on_checkpoint(folder: Path, zero_stage: int) -> Resume:
    """Where all ranks go on, as rank 0 sees the storage; every rank calls this.

    Args:
        folder: the stage folder.
        zero_stage: of the training.

    Raises:
        UserError: on every rank, where the checkpoint must not or cannot be read.
    """
    import torch.distributed as dist

    choice: list[Resume | UserError] = [Resume()]
    if dist.get_rank() == 0:
        checkpoints.remove_incomplete(folder)
        try:
            choice[0] = _find_checkpoint(folder, zero_stage, dist.get_world_size())
        except UserError as error:
            choice[0] = error
    dist.broadcast_object_list(choice, src=0)
    if isinstance(choice[0], UserError):
        raise choice[0]
    return choice[0]


def _find_checkpoint(folder: Path, zero_stage: int, num_workers: int) -> Resume:
    found = checkpoints.latest(folder)
    if found is None:
        return Resume()
    check_checkpoint(found)
    before = (checkpoints.read_mark(found) or {})["num_workers"]
    # Without ZeRO every worker has the whole state, and any number of them reads it.
    if before == num_workers or zero_stage == 0:
        return Resume(found)
    try:
        convert(found)
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:  # an optimizer that the format does not know
        raise UserError(
            f"{found} was written by {before} workers and cannot be made fit for {num_workers} ({reason(error)}); set "
            f"alignment.num_workers to {before} and alignment.min_workers to null"
        ) from error
    return Resume(found, universal=True)
