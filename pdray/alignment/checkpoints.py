"""Checkpoints that are either complete or absent.

The trainer writes a checkpoint file by file from every rank. It counts only with the marker that rank 0 writes
after all ranks have finished; whatever a killed attempt left without one is removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdray.models.weights import read_header, read_shapes
from pdray.storage import StoragePath

MARKER = "complete.json"
CHECKPOINTS = "checkpoints"
POLICY = "policy"
HISTORY = "training.jsonl"
ADAPTERS = "adapter_model.safetensors"

# What the trainer keeps in a checkpoint beside the model folder itself.
TRAINER_FILES = {"latest", "latest_universal", "trainer_state.json", "training_args.bin", "README.md", MARKER}
TRAINER_SUFFIXES = {".pt", ".pth", ".py"}


def mark(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Declare a checkpoint complete.

    Args:
        checkpoint: its folder.
        facts: what is known of the training so far, among it ``step`` and ``max_steps``.
    """
    StoragePath(str(checkpoint / MARKER)).write_json(facts)


def read_mark(checkpoint: Path) -> dict[str, Any] | None:
    """The facts of a complete checkpoint; None where there is none, or where its marker, log or weights are damaged."""
    try:
        facts: dict[str, Any] = StoragePath(str(checkpoint / MARKER)).read_json()
        steps = facts["step"], facts["max_steps"]
        read_history(checkpoint)
        _read_weights(checkpoint)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return facts if all(isinstance(step, int) for step in steps) else None


def _read_weights(checkpoint: Path) -> None:
    """Look at the headers of the model's weights, or of the adapters, which is all that a training of them saves."""
    adapters = checkpoint / ADAPTERS
    if adapters.is_file():
        read_header(checkpoint.name, adapters)
    else:
        read_shapes(checkpoint.name, str(checkpoint))


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that were made before it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def latest(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps under a stage folder, or None."""
    complete = [path for path in _checkpoints(folder) if read_mark(path)]
    return max(complete, key=step_of, default=None)


def finished(folder: Path) -> Path | None:
    """The complete checkpoint of the last step, or None while training is not done."""
    checkpoint = latest(folder)
    facts = read_mark(checkpoint) if checkpoint else None
    return checkpoint if facts and facts["step"] >= facts["max_steps"] else None


def remove_incomplete(folder: Path) -> None:
    """Delete the checkpoints without a marker."""
    for checkpoint in _checkpoints(folder):
        if not read_mark(checkpoint):
            shutil.rmtree(checkpoint)


def read_history(checkpoint: Path) -> list[dict[str, Any]]:
    """The trainer's log up to a checkpoint, from the first step of the first attempt on.

    Raises:
        OSError, ValueError, TypeError, KeyError: it is damaged.
    """
    history: list[dict[str, Any]] = StoragePath(str(checkpoint / "trainer_state.json")).read_json()["log_history"]
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise ValueError("a log is a list of entries")
    return history


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write ``training.jsonl`` anew, one log entry a line."""
    partial = folder / f".{HISTORY}"
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    os.replace(partial, folder / HISTORY)


def link_model(checkpoint: Path, policy: Path) -> None:
    """The model files of a checkpoint in another folder: hard links where the storage has them."""
    for file in model_files(checkpoint):
        _link(file, policy / file.name)


def model_files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that are a model's and not the trainer's."""
    return [
        file
        for file in sorted(checkpoint.iterdir())
        if file.is_file() and file.name not in TRAINER_FILES and file.suffix not in TRAINER_SUFFIXES
    ]


def publish_policy(checkpoint: Path, folder: Path, write: Callable[[Path, Path], None] = link_model) -> Path:
    """Make ``policy/`` from a checkpoint; the folder appears under its name only when it is whole.

    Args:
        checkpoint: of the last step.
        folder: the stage folder.
        write: told of the checkpoint and an empty folder, which it fills.
    """
    policy, partial = folder / POLICY, folder / f".{POLICY}.partial"
    for old in (policy, partial):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    write(checkpoint, partial)
    partial.rename(policy)
    return policy


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in (folder / CHECKPOINTS).glob("checkpoint-*") if path.is_dir()]
