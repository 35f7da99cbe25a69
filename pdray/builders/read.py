"""The rows of some files or of a data set on the hub, one after the other; no Ray, and never a whole file in memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pdray.builders.units import Rows
from pdray.corpus.files import corpus_files
from pdray.corpus.lines import UNREADABLE, cut_pieces, first_rows, read_pieces
from pdray.corpus.read import raw_rows
from pdray.corpus.tables import common_schema, cut_groups, read_footer, read_groups
from pdray.errors import UserError
from pdray.identity import file_identities

ROWS_AT_ONCE = 500  # as Python objects; a row may hold a dozen texts


@dataclass(frozen=True)
class Input:
    """What is read.

    Attributes:
        columns: from schemas and first rows.
        rows: starts to read.
        origin: where it comes from, for the manifest.
    """

    columns: frozenset[str]
    rows: Callable[[], Rows]
    origin: dict[str, Any]


def open_files(patterns: list[str]) -> Input:
    """Parquet and JSONL files, packed or not, local or remote.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    with as_input():
        groups = [group for found in corpus_files(patterns) for group in _by_format(*found)]
        if not groups:
            raise UserError(f"--input matches no file: {', '.join(patterns)}; correct the path or the glob")
        opened = [(_tables if is_parquet else _lines)(filesystem, files) for filesystem, files, is_parquet in groups]
        columns = frozenset().union(*(names for names, _ in opened))
        origin = {"files": [one for filesystem, files, _ in groups for one in _identities(filesystem, files)]}
    return Input(columns, lambda: _numbered(table for _, tables in opened for table in tables()), origin)


def open_hub(hub: str, config: str | None, split: str) -> Input:
    """A data set on the Hugging Face hub.

    Raises:
        UserError: it cannot be loaded.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(hub, config, split=split)
    except Exception as error:
        # datasets raises many unrelated types here; each means that this name cannot be loaded.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{hub} (split {split}) cannot be loaded from the hub ({type(error).__name__}: {reason}); check the "
            "network and the split, or fetch its files and name them with --input"
        ) from None
    columns = frozenset(dataset.column_names)
    tables = dataset.with_format("arrow")
    origin = {"hub": hub, "config": config, "split": split}
    return Input(columns, lambda: _numbered(tables.iter(batch_size=ROWS_AT_ONCE)), origin)


@contextlib.contextmanager
def as_input() -> Iterator[None]:
    """Name the command's option in what the corpus' readers refuse."""
    try:
        yield
    except UserError as error:
        raise UserError(*(sentence.replace("corpus.path", "--input") for sentence in error.sentences)) from None


def _by_format(filesystem: pafs.FileSystem, files: list[str]) -> Iterator[tuple[pafs.FileSystem, list[str], bool]]:
    for is_parquet in (True, False):
        if group := [path for path in files if path.lower().endswith(".parquet") is is_parquet]:
            yield filesystem, group, is_parquet


Opened = tuple[frozenset[str], Callable[[], Iterator[pa.Table]]]


def _tables(filesystem: pafs.FileSystem, files: list[str]) -> Opened:
    footers = [read_footer(filesystem, path) for path in files]
    schema = common_schema(footers)
    return frozenset(schema.names), lambda: read_groups(_table(cut_groups(footers)), filesystem, schema)


def _lines(filesystem: pafs.FileSystem, files: list[str]) -> Opened:
    columns = frozenset(key for path in files for row in first_rows(filesystem, path) for key in row)
    return columns, lambda: read_pieces(_table(cut_pieces(filesystem, files)), filesystem)


def _table(pieces: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(pieces)


def _numbered(tables: Iterable[pa.Table]) -> Rows:
    """Rows with file and number, from 1."""
    counts: Counter[str] = Counter()
    with as_input():
        for table in tables:
            for start in range(0, len(table), ROWS_AT_ONCE):
                for row, file in raw_rows(table.slice(start, ROWS_AT_ONCE)):
                    name = file or "the data set"
                    counts[name] += 1
                    where = f"{name}, row {counts[name]:,}"
                    if UNREADABLE in row:
                        raise UserError(f"{where}: {row[UNREADABLE]}; mend the row, or take it out")
                    yield row, where


def _identities(filesystem: pafs.FileSystem, files: list[str]) -> list[dict[str, Any]]:
    if isinstance(filesystem, pafs.LocalFileSystem):
        return [
            {"name": Path(path).name, "sha256": digest}
            for path, digest in zip(files, file_identities(files), strict=True)
        ]
    return [{"name": info.path, "bytes": info.size} for info in filesystem.get_file_info(files)]
