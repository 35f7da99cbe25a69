"""The JSON files of a model folder, whatever stands in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.filesystems import read_regular
from pdray.jsontext import parse_json
from pdray.paths import is_closed, not_readable


def read_object(name: str, path: Path) -> dict[str, Any]:
    """A file with one JSON object.

    Raises:
        UserError: it is missing, closed to this user, unreadable, or holds anything else.
    """
    try:
        value = parse_json(read_regular(str(path)))  # a pipe in its place would wait for ever
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict) and is_closed(str(path)):
        raise UserError(not_readable(str(path)))  # as whatever else looks at the file says
    if not isinstance(value, dict):
        raise UserError(
            f"{name}, which holds no readable {path.name} (one JSON object); name a Hugging Face model folder, or copy "
            "that file again from where the model comes from"
        )
    return value
