"""Files and hub data sets as Ray Data sets of raw rows, and what their columns say."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from pdray.config import CorpusConfig
from pdray.corpus.files import corpus_files, folder_values
from pdray.corpus.hub import open_hub
from pdray.corpus.lines import FILE, LINE, UNREADABLE, cut_pieces, first_rows, parse_line, read_pieces
from pdray.corpus.tables import common_schema, cut_groups, read_footer, read_groups
from pdray.errors import UserError, check_together

SIDES = ("response_a", "response_b")
PEEK_THREADS = 16
NAMED = 5  # files that a message names

T = TypeVar("T")


@dataclass(frozen=True)
class RawCorpus:
    """A corpus before any check.

    Attributes:
        datasets: Ray Data sets of raw rows.
        columns: names of the columns, from the schema or the first rows of every file, and those in folder names.
        conversational: whether prompts or responses are lists of messages.
    """

    datasets: list[Any]
    columns: frozenset[str]
    conversational: bool


@dataclass(frozen=True)
class Part:
    """Files of one format on one filesystem, looked at but not read.

    Attributes:
        filesystem: that holds them.
        pieces: what a task reads at a time; see :func:`cut_pieces` and :func:`cut_groups`.
        columns: names of the columns.
        conversational: whether prompts or responses are lists of messages.
        schema: of parquet files, None of JSONL.
    """

    filesystem: pafs.FileSystem
    pieces: list[dict[str, Any]]
    columns: frozenset[str]
    conversational: bool
    schema: pa.Schema | None = None

    @property
    def holds_rows(self) -> bool:
        """Whether there are rows, of lines among the first ones."""
        return bool(self.columns) if self.schema is None else any(piece["rows"] for piece in self.pieces)

    def dataset(self) -> Any:
        """The rows as a Ray Data set."""
        import ray.data

        # Not read_parquet: it takes names of files for addresses and `name=value` folders for columns.
        read, args = (read_pieces, ()) if self.schema is None else (read_groups, (self.schema,))
        return ray.data.from_items(self.pieces, override_num_blocks=len(self.pieces)).map_batches(
            read, fn_args=(self.filesystem, *args), batch_size=1, batch_format="pyarrow", max_retries=3
        )


def open_corpus(config: CorpusConfig) -> RawCorpus:
    """Open the files or the hub data set of a corpus; nothing is read yet but schemas and first rows.

    Raises:
        UserError: there is nothing to read, or it cannot be read.
    """
    if config.hub is not None:
        dataset, schema = open_hub(config)
        return RawCorpus([dataset], frozenset(schema.names), _has_messages(schema, text_columns(config)))
    parts = look_at_files(config)
    return replace(describe(config, parts), datasets=[part.dataset() for part in parts])


def describe(config: CorpusConfig, parts: list[Part]) -> RawCorpus:
    """What the columns of all parts say; without data sets."""
    return RawCorpus(
        datasets=[],
        columns=frozenset(config.partition_columns).union(*(part.columns for part in parts)),
        conversational=any(part.conversational for part in parts),
    )


def look_at_files(config: CorpusConfig) -> list[Part]:
    """Schemas and first rows of the files; starts no Ray.

    Raises:
        UserError: a file cannot be read or is of another kind than its name says; all such files are named.
    """
    groups = [group for found in corpus_files(config.patterns) for group in _by_format(*found)]
    partitions = frozenset(config.partition_columns)
    parts: list[Part] = []

    def look(filesystem: pafs.FileSystem, files: list[str], is_parquet: bool) -> None:
        _require_folders(files, partitions)
        parts.append((_tables if is_parquet else _lines)(filesystem, files, text_columns(config), partitions))

    check_together(functools.partial(look, *group) for group in groups)
    return parts


def text_columns(config: CorpusConfig) -> frozenset[str]:
    """The user's names of the columns that hold prompts and responses."""
    names = ("prompt", "chosen", "rejected") if config.kind == "pairs" else ("prompt", "response", *SIDES)
    return frozenset(getattr(config.columns, name) for name in names)


def raw_rows(table: pa.Table, partitions: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Rows of a block as dictionaries of the user's columns, with the file that they come from.

    The columns in ``partitions`` come from the names of the file's folders. A JSONL line that is no JSON object gives
    ``{UNREADABLE: reason, "line": text}``; bytes that are not UTF-8 stay bytes.
    """
    files = table.column(FILE).to_pylist() if FILE in table.column_names else itertools.repeat(None)
    if set(table.column_names) == {LINE, FILE}:
        rows: Any = (parse_line(line) for line in table.column(LINE).to_pylist())
    else:
        names = [name for name in table.column_names if name != FILE]
        columns = [_values(table.column(name)) for name in names]
        rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    folders = functools.cache(lambda file: folder_values(file, partitions) if partitions else {})
    for row, file in zip(rows, files, strict=False):
        yield _with_folders(row, folders(file)), file


def _with_folders(row: dict[str, Any], values: dict[str, str | None]) -> dict[str, Any]:
    if both := row.keys() & values.keys():
        return row | {UNREADABLE: f"also in the folder name: {', '.join(sorted(both))}"}
    return row | values


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return [_one_value(scalar) for chunk in column.chunks for scalar in chunk]
        binary = pa.binary() if pa.types.is_string(column.type) else pa.large_binary()
        values = pa.chunked_array([chunk.view(binary) for chunk in column.chunks]).to_pylist()
    return values


def _one_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return b"\xff"


def _by_format(filesystem: pafs.FileSystem, files: list[str]) -> Iterator[tuple[pafs.FileSystem, list[str], bool]]:
    for is_parquet in (True, False):
        group = [path for path in files if path.lower().endswith(".parquet") is is_parquet]
        if group:
            yield filesystem, group, is_parquet


def _require_folders(files: list[str], partitions: frozenset[str]) -> None:
    for path in files:
        if missing := sorted(partitions - folder_values(path, partitions).keys()):
            raise UserError(
                f"corpus.partition_columns names {missing[0]!r}, but {path} lies in no folder {missing[0]}=…; "
                "take the name out or correct corpus.path"
            )


def _refuse_both(path: str, columns: Iterable[str], partitions: frozenset[str]) -> None:
    if both := sorted(partitions.intersection(columns)):
        raise UserError(
            f"corpus.partition_columns names {both[0]!r}, which is also a column of {path}; take it out of the list, "
            "and the column is read from the files"
        )


def _tables(filesystem: pafs.FileSystem, files: list[str], texts: frozenset[str], partitions: frozenset[str]) -> Part:
    footers = _of_each(read_footer, filesystem, files)
    for footer in footers:
        _refuse_both(footer.path, footer.schema.names, partitions)
    schema = common_schema(footers)
    return Part(filesystem, cut_groups(footers), frozenset(schema.names), _has_messages(schema, texts), schema)


def _lines(filesystem: pafs.FileSystem, files: list[str], texts: frozenset[str], partitions: frozenset[str]) -> Part:
    firsts = _of_each(first_rows, filesystem, files)
    for path, first in zip(files, firsts, strict=True):
        _refuse_both(path, (key for row in first for key in row), partitions)
    rows = [row for first in firsts for row in first]
    conversational = any(is_messages(row.get(name)) for row in rows for name in texts)
    return Part(
        filesystem, cut_pieces(filesystem, files), frozenset(key for row in rows for key in row), conversational
    )


def _of_each(read: Callable[[pafs.FileSystem, str], T], filesystem: pafs.FileSystem, files: list[str]) -> list[T]:
    """What is read of each file; all that cannot be read are named, up to :data:`NAMED`."""
    found: list[T] = []
    refused: list[str] = []

    def attempt(path: str) -> T | UserError:
        try:
            return read(filesystem, path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(PEEK_THREADS) as pool:
        for one in pool.map(attempt, files):
            if isinstance(one, UserError):
                refused += one.sentences
            else:
                found.append(one)
    if len(refused) > NAMED:
        refused = [*refused[:NAMED], f"{len(refused) - NAMED} more files of corpus.path cannot be read either"]
    if refused:
        raise UserError(*refused)
    return found


def _has_messages(schema: pa.Schema, texts: frozenset[str]) -> bool:
    return any(
        field.name in texts
        for field in schema
        if (pa.types.is_list(field.type) or pa.types.is_large_list(field.type))
        and pa.types.is_struct(field.type.value_type)
        and {"role", "content"} <= {child.name for child in field.type.value_type}
    )


def is_messages(value: Any) -> bool:
    """Whether a value of a row is a list of messages, by its first one."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]
