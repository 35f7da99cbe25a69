"""Checkpoints that another number of workers goes on from: DeepSpeed's universal format.

ZeRO cuts the state of the optimizer into one part a worker, and DeepSpeed refuses to read parts for another number.
The universal format has a file a weight; it is made from the parts, beside them, when it is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from argparse import Namespace
from pathlib import Path

from pdray.alignment.checkpoints import step_of

TAG = "universal"
LATEST = "latest_universal"  # DeepSpeed's name


def convert(checkpoint: Path) -> None:
    """Make a complete checkpoint readable for any number of workers; does nothing where it is already.

    One process calls this. Torch must load weights only: see :mod:`pdray.alignment.weights_only`.
    """
    if (checkpoint / LATEST).exists():
        return
    from deepspeed.checkpoint.ds_to_universal import main

    partial = checkpoint / f"{TAG}.partial"
    for left in (partial, checkpoint / TAG):
        shutil.rmtree(left, ignore_errors=True)
    arguments = Namespace(
        input_folder=str(checkpoint / f"global_step{step_of(checkpoint)}"),
        output_folder=str(partial),
        num_extract_workers=1,  # more would fork this process, with the threads of Ray and torch in it
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # the trainer writes no such state; it would say how tensors are split in parallel
    )
    with contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
    (checkpoint / LATEST).unlink()  # it names the partial folder
    os.replace(partial, checkpoint / TAG)
    (checkpoint / LATEST).write_text(TAG, encoding="utf-8")
