"""Which files a corpus is made of, on any filesystem that pyarrow or fsspec reaches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from pdray.errors import UserError
from pdray.filesystems import patient
from pdray.identity import file_identities
from pdray.paths import expand, is_data_file, is_remote, is_utf8

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
GLOB = re.compile(r"[*\[]")  # in a URI the question mark begins the query


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path on it; pyarrow's own where it has one, fsspec's otherwise.

    Raises:
        UserError: nothing installed reads this kind of URI.
    """
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError):
        import fsspec

        try:
            handler, path = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise UserError(f"corpus.path {uri} cannot be read: {error}") from None
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(handler))
    return patient(filesystem), path


def list_files(pattern: str) -> tuple[pafs.FileSystem, list[str]]:
    """Data files behind a path, folder or glob, sorted.

    Raises:
        UserError: there are none, they are of another kind, or the filesystem cannot be reached.
    """
    if not is_remote(pattern):
        files = expand(pattern)
        if saved := saved_to_disk(files):
            raise UserError(
                f"{saved} is what save_to_disk of Hugging Face datasets wrote; write it as parquet, and name that: "
                f"datasets.load_from_disk({saved!r}).to_parquet(OUT)"
            )
        for path in files:
            if not is_utf8(path):
                raise _not_utf8(path)
        return pafs.LocalFileSystem(), files
    location, mark, query = pattern.partition("?")
    glob = GLOB.search(location)
    root = location[: glob.start()].rpartition("/")[0] if glob else location
    filesystem, path = filesystem_of(root + mark + query)
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.File:
            return filesystem, [path]
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
        files = sorted(f.path for f in found if f.is_file and is_data_file(f.path))
    except OSError as error:
        raise UserError(
            f"corpus.path {pattern} cannot be listed: {error}; check the address and the credentials"
        ) from None
    except UnicodeDecodeError as error:  # where a path is asked for
        raise _not_utf8(os.fsdecode(error.object)) from None
    if glob:
        try:
            wanted = re.compile(glob_translate((path + location[len(root) :]).lstrip("/")))
        except ValueError as error:
            raise UserError(f"corpus.path {pattern} is no glob: {error}; correct it") from None
        files = [file for file in files if wanted.match(file.lstrip("/"))]
    if not files:
        raise UserError(f"corpus.path matches no data file: {pattern}; correct the path or the glob")
    return filesystem, files


def saved_to_disk(files: list[str]) -> str | None:
    """The first folder of some files that Hugging Face datasets saved, by the two beside its Arrow files."""
    names = set(files)
    folders = (os.path.dirname(path) for path in files if os.path.basename(path) == "state.json")
    return next((folder for folder in folders if os.path.join(folder, "dataset_info.json") in names), None)


def _not_utf8(path: str) -> UserError:
    return UserError(f"the name of the file {path!r} is not UTF-8, and pyarrow opens no such file; rename it")


def corpus_files(patterns: list[str]) -> list[tuple[pafs.FileSystem, list[str]]]:
    """The files of several patterns, by filesystem; one that two patterns name counts once."""
    groups: list[tuple[pafs.FileSystem, list[str]]] = []
    for pattern in patterns:
        filesystem, files = list_files(pattern)
        known = {path for other, paths in groups if other.equals(filesystem) for path in paths}
        if fresh := [path for path in files if path not in known]:
            groups.append((filesystem, fresh))
    return groups


def input_identity(patterns: list[str], partitions: Iterable[str] = ()) -> list[list[Any]]:
    """What tells the input files from changed ones, whatever their order.

    A local file is its content, its kind and its values in ``partitions``, wherever it lies; of one elsewhere it is
    path, size and time of the last change.
    """
    identity: list[list[Any]] = []
    for filesystem, files in corpus_files(patterns):
        if isinstance(filesystem, pafs.LocalFileSystem):
            for path, digest in zip(files, file_identities(files), strict=True):
                identity.append([Path(path).suffix.lower(), digest, folder_values(path, partitions)])
        else:
            identity += [[f.path, f.size, f.mtime_ns] for f in filesystem.get_file_info(files)]
    return sorted(identity, key=str)


def folder_values(path: str, names: Iterable[str]) -> dict[str, str | None]:
    """Values of columns that stand in the folder names of a path, as in ``aspect=honesty/x.parquet``.

    Only the columns that are named; of two folders with one column the inner one counts.
    """
    folders = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    values = {unquote(name): None if value == HIVE_NULL else unquote(value) for name, _, value in folders}
    return {name: values[name] for name in names if name in values}
