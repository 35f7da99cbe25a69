"""Which trained models of ``train: all`` are whole, what is known of them, and how their folders are called."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from pdray.hashing import digest
from pdray.storage import StoragePath

SCRATCH, DONE = "work", "trained"


def slug(aspect: str) -> str:
    """A folder name for an aspect: the name itself where it is plain lower case, else with part of its digest.

    Two aspects never share one, also on file systems that do not tell case apart.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", aspect) and aspect not in (SCRATCH, DONE):
        return aspect
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", aspect.lower()).strip("-")[:48]
    return f"{cleaned or 'aspect'}-{digest(aspect)[:8]}"


def write_done(folder: StoragePath, name: str, facts: dict[str, Any], margins: pa.Table) -> None:
    """Say that the model in ``<folder>/<name>`` is whole; written after it.

    Args:
        folder: the stage folder.
        name: of the model's folder.
        facts: what the manifest says of it.
        margins: of all held-out pairs, a column for each of its aspects.
    """
    (folder / DONE / f"{name}.parquet").write_table(margins)
    (folder / DONE / f"{name}.json").write_json({"files": (folder / name).sizes(recursive=True), "facts": facts})


def read_done(folder: StoragePath, name: str) -> dict[str, Any] | None:
    """What is known of a finished model; None where it is not finished, or its files are not whole."""
    try:
        done = (folder / DONE / f"{name}.json").read_json()
        whole = done["files"] == (folder / name).sizes(recursive=True)
        facts: dict[str, Any] = done["facts"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return facts if whole and (folder / DONE / f"{name}.parquet").exists() else None


def is_done(folder: StoragePath, name: str) -> bool:
    """Whether a model is finished and whole."""
    return read_done(folder, name) is not None


def read_margins(folder: StoragePath, name: str) -> pa.Table:
    """The margins of a finished model; see :func:`write_done`."""
    return (folder / DONE / f"{name}.parquet").read_table()
