"""How many tokens a model reads, from its config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.models.files import read_object
from pdray.models.place import on_this_node

POSITION_KEYS = ("max_position_embeddings", "n_positions")
OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "longformer",
    "mpnet",
)


def check_positions(setting: str, max_tokens: int, folder: str, spare: int = 0) -> None:
    """Refuse more tokens than a model reads.

    Args:
        setting: name of the setting, for the message.
        max_tokens: its value.
        folder: model folder.
        spare: positions beyond these that the engine needs.

    Raises:
        UserError: the model has fewer positions.
    """
    positions = max_positions(read_object(f"a model is {folder}", Path(on_this_node(folder)) / "config.json"))
    if positions is not None and max_tokens + spare > positions:
        kept = f", of which the engine needs {spare} for itself" if spare else ""
        raise UserError(
            f"{setting} is {max_tokens}, but {folder} reads at most {positions} tokens{kept}; "
            f"set {setting} to {positions - spare} or less"
        )


def max_positions(config: dict[str, Any]) -> int | None:
    """Most tokens that a model reads, from its config.json; None where it sets no limit."""
    inner = config.get("text_config", config)
    config = inner if isinstance(inner, dict) else config
    positions = next((config[key] for key in POSITION_KEYS if isinstance(config.get(key), int)), None)
    if positions is not None and config.get("model_type") in OFFSET_POSITIONS:
        pad = config.get("pad_token_id")
        positions -= (pad if isinstance(pad, int) else 1) + 1
    return positions
