"""Ways to break a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_json(folder: Path, name: str, **changes: Any) -> None:
    """Set keys of a JSON file of a model folder."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(content | changes), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Save the weights of a model folder anew, changed."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def drop_weights(folder: Path, part: str) -> None:
    """Leave out the weights whose name holds ``part``."""
    edit_weights(folder, lambda weights: {name: tensor for name, tensor in weights.items() if part not in name})


def drop_tokenizer(folder: Path) -> None:
    """What a copy of weights and config alone leaves."""
    for file in folder.glob("tokenizer*"):
        file.unlink()


def shard(folder: Path) -> None:
    """Save the weights of a language model in several files with an index."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
