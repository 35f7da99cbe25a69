"""What the user's cache keeps from one command to the next, in JSON: digests of files, and measured rates."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pdray.filesystems import read_regular


def cache_path(name: str) -> Path:
    """Where the user's cache has a file of this name."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "pdray" / name


def read_cache(name: str) -> dict[str, Any]:
    """The object of a file; empty where there is none, or something else stands there: a cache is done without."""
    try:
        found = json.loads(read_regular(str(cache_path(name))).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_cache(name: str, value: dict[str, Any]) -> Path:
    """Put a file in place of whatever stands there, as a whole.

    Returns:
        the file.

    Raises:
        OSError: it cannot be written.
    """
    path = cache_path(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        json.dump(value, file, indent=1)
    os.replace(file.name, path)
    return path
