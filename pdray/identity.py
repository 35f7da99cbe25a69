"""What an input is, by its content: a copy on another machine is the same input, and touching a file changes nothing.

A digest is kept beside the path, size and times of its file in the user's cache, so a file is read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pdray.cache import read_cache, write_cache
from pdray.errors import UserError
from pdray.models.place import on_this_node
from pdray.paths import not_readable

CACHE = "identities.json"
MAX_CACHED = 20_000
HASH_THREADS = 8
# A file this young may change again without its times changing: they are only as fine as the disk keeps them.
SETTLED_NS = 2_000_000_000


def file_identities(paths: Iterable[str | Path]) -> list[str]:
    """sha256 of the bytes of each file, hexadecimal.

    Raises:
        UserError: a file cannot be read.
    """
    absolute = [os.path.abspath(path) for path in paths]
    cache = _read_cache()
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        found = list(pool.map(lambda path: _identity(path, cache.get(path)), absolute))
    fresh = {path: entry for path, entry in zip(absolute, found, strict=True) if entry != cache.get(path)}
    now = time.time_ns()
    settled = {path: entry for path, entry in fresh.items() if now - max(entry[1], entry[2]) > SETTLED_NS}
    if settled:
        _write_cache(_read_cache() | settled)
    return [entry[-1] for entry in found]


def file_identity(path: str | Path) -> str:
    """sha256 of the bytes of a file; see :func:`file_identities`."""
    return file_identities([path])[0]


def model_identity(folder: str | Path) -> list[list[str]]:
    """Name and sha256 of every file in a model folder, sorted; its own folders, such as checkpoints, do not count."""
    root = Path(on_this_node(str(folder)))
    return _named(root, model_files(root))


def model_files(folder: Path) -> list[Path]:
    """The files of a local model folder, sorted.

    Raises:
        UserError: the folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UserError(not_readable(str(folder), error.strerror or str(error))) from None


def folder_identity(folder: str | Path) -> list[list[str]]:
    """Name and sha256 of every file in a folder and in the folders in it, sorted."""
    return _named(Path(folder), sorted(path for path in Path(folder).rglob("*") if path.is_file()))


def _named(folder: Path, files: list[Path]) -> list[list[str]]:
    # A name may be no UTF-8, of which no fingerprint is made.
    names = [path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode("utf-8") for path in files]
    return [list(pair) for pair in zip(names, file_identities(files), strict=True)]


def _identity(path: str, known: list[Any] | None) -> list[Any]:
    """Bytes, time of the last change of content and of anything, and the digest."""
    try:
        before = _state(path)
        if known is not None and known[:-1] == before:
            return known
        with open(path, "rb") as file:
            return [*before, hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError as error:
        raise UserError(not_readable(path, error.strerror or str(error))) from None


def _state(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read_cache() -> dict[str, list[Any]]:
    entries = read_cache(CACHE)
    return {path: entry for path, entry in entries.items() if isinstance(entry, list) and len(entry) == 4}


def _write_cache(entries: dict[str, list[Any]]) -> None:
    """Keep the newest entries; a cache that cannot be written is done without."""
    with contextlib.suppress(OSError):
        write_cache(CACHE, dict(list(entries.items())[-MAX_CACHED:]))
