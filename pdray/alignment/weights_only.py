"""A checkpoint is data: tensors, numbers and a few classes of DeepSpeed's. Loading one runs nothing that it names.

DeepSpeed writes pickles, and asks torch to run whatever they name when it reads them again. A run folder may come from
somebody else, and everything in it with it, so nothing in the folder can vouch for a checkpoint. Torch's weights-only
reader makes the question idle: it knows no name but those allowed.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from pdray.errors import UserError

FORCED, NEVER = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
SUFFIXES = (".pt", ".pth")


def load_weights_only() -> None:
    """From now on ``torch.load`` in this process runs nothing that a file names, whoever calls it and however.

    Imports DeepSpeed.
    """
    os.environ.pop(NEVER, None)  # torch refuses both
    os.environ[FORCED] = "1"
    import numpy as np
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address
    from numpy._core.multiarray import _reconstruct
    from torch.serialization import add_safe_globals

    random_state = [_reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    add_safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address, *random_state])


def check_checkpoint(checkpoint: Path) -> None:
    """Refuse a checkpoint with a file that the weights-only reader would not read; needs :func:`load_weights_only`.

    Raises:
        UserError: it names something else, or is no file of torch's.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for file in sorted(path for path in checkpoint.rglob("*") if path.suffix in SUFFIXES):
        try:
            named = get_unsafe_globals_in_checkpoint(file)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            named = ["no tensors"]
        if named:
            raise UserError(
                f"{file} holds {', '.join(sorted(named))}, which no checkpoint of this training does, and was not "
                f"read; it is damaged or not from here: remove {checkpoint} to train from the checkpoint before it"
            )
