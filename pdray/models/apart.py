"""A model folder that reads prompt and response apart: an encoder, how it pools, and the head beside it.

    <folder>/config.json, model.safetensors, tokenizer…   the encoder; its labels are the names of the outputs
    <folder>/apart.json                                    {"pooling": "mean"}
    <folder>/head/head.safetensors                         weight, bias and, in a head of tanh units, dense, dense_bias

Without a head the outputs are the features themselves, see :mod:`pdray.engines.pair_features`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from pdray.models.pooling import Pooling
from pdray.rewards import RewardHead

DEFINITION = "apart.json"
HEAD = Path("head") / "head.safetensors"  # vLLM takes every safetensors file beside an encoder for a part of it


def is_apart(folder: str | Path) -> bool:
    """Whether a local model folder is one of these."""
    return (Path(folder) / DEFINITION).is_file()


def write_apart(folder: Path, pooling: Pooling, head: RewardHead | None) -> None:
    """Write the definition, and the head if there is one, beside an encoder."""
    from safetensors.numpy import save_file

    if head is not None:
        (folder / HEAD).parent.mkdir(exist_ok=True)
        save_file({name: value for name, value in asdict(head).items() if value is not None}, folder / HEAD)
    (folder / DEFINITION).write_text(json.dumps({"pooling": pooling}) + "\n", encoding="utf-8")


def read_apart(folder: str | Path) -> tuple[Pooling, RewardHead | None]:
    """The pooling of a folder, and its head if it has one."""
    pooling = json.loads((Path(folder) / DEFINITION).read_text(encoding="utf-8"))["pooling"]
    assert pooling in get_args(Pooling), f"{folder} was not written by write_apart: its pooling is {pooling!r}"
    return pooling, read_apart_head(folder)


def has_head(folder: str | Path) -> bool:
    """Whether a folder's definition and head can be read."""
    from safetensors import SafetensorError

    try:
        return read_apart(folder)[1] is not None
    except (OSError, ValueError, KeyError, TypeError, AssertionError, SafetensorError):
        return False


def read_apart_head(folder: str | Path) -> RewardHead | None:
    """The head of a folder; None where its outputs are the features."""
    from safetensors.numpy import load_file

    path = Path(folder) / HEAD
    return RewardHead(**load_file(path)) if path.is_file() else None
