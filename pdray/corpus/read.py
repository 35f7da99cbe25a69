"""Files and hub data sets as Ray Data sets of raw rows, and what their columns say."""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pdray.config import CorpusConfig
from pdray.corpus.files import corpus_files, folder_values
from pdray.errors import UserError

PEEK_ROWS = 100
ROWS_PER_BLOCK = 10_000
LINE = "__line__"
FILE = "path"  # the name that Ray's include_paths gives
UNREADABLE = "__unreadable__"
SIDES = ("response_a", "response_b")
PEEK_THREADS = 16

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


def open_corpus(config: CorpusConfig) -> RawCorpus:
    """Open the files or the hub data set of a corpus; nothing is read yet but schemas and first rows.

    Raises:
        UserError: there is nothing to read, or it cannot be read.
    """
    if config.hub is not None:
        return _open_hub(config)
    texts = text_columns(config)
    groups = [group for found in corpus_files(config.patterns) for group in _by_format(*found)]
    partitions = frozenset(config.partition_columns)
    for _, files, _ in groups:
        _require_folders(files, partitions)
    parts = [_open_files(*group, texts, partitions) for group in groups]
    return RawCorpus(
        datasets=[dataset for dataset, _, _ in parts],
        columns=partitions.union(*(columns for _, columns, _ in parts)),
        conversational=any(conversational for _, _, conversational in parts),
    )


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
    if LINE in table.column_names:
        rows: Any = (_parse_line(line) for line in table.column(LINE).to_pylist())
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


def _parse_line(data: bytes) -> dict[str, Any]:
    try:
        row = json.loads(data)
    except UnicodeDecodeError:
        return {UNREADABLE: "not UTF-8", "line": data}
    except (ValueError, RecursionError):  # a plain ValueError: a number of too many digits
        return {UNREADABLE: "not JSON", "line": data}
    return row if isinstance(row, dict) else {UNREADABLE: "not a JSON object", "line": data}


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


def _open_files(
    filesystem: pafs.FileSystem, files: list[str], is_parquet: bool, texts: frozenset[str], partitions: frozenset[str]
) -> tuple[Any, frozenset[str], bool]:
    import ray.data

    if is_parquet:
        schemas = _of_each(_schema, filesystem, files)
        for path, schema in zip(files, schemas, strict=True):
            _refuse_both(path, schema.names, partitions)
        # Left to itself, Ray takes `name=value` folders for columns, in place of those in the files.
        dataset = ray.data.read_parquet(files, filesystem=filesystem, include_paths=True, partitioning=None)
        return dataset, _common_columns(files, schemas), any(_has_messages(schema, texts) for schema in schemas)
    firsts = _of_each(_first_rows, filesystem, files)
    for path, first in zip(files, firsts, strict=True):
        _refuse_both(path, (key for row in first for key in row), partitions)
    rows = [row for first in firsts for row in first]
    dataset = ray.data.from_items(files, override_num_blocks=len(files)).map_batches(
        _read_lines, fn_args=(filesystem,), batch_size=1, batch_format="pyarrow"
    )
    conversational = any(_is_messages(row.get(name)) for row in rows for name in texts)
    return dataset, frozenset(key for row in rows for key in row), conversational


def _of_each(read: Callable[[pafs.FileSystem, str], T], filesystem: pafs.FileSystem, files: list[str]) -> list[T]:
    with ThreadPoolExecutor(PEEK_THREADS) as pool:
        return list(pool.map(functools.partial(read, filesystem), files))


def _schema(filesystem: pafs.FileSystem, path: str) -> pa.Schema:
    try:
        return pq.read_schema(path, filesystem=filesystem)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({error}); repair or remove it") from None


def _common_columns(files: list[str], schemas: list[pa.Schema]) -> frozenset[str]:
    names = [frozenset(schema.names) for schema in schemas]
    for path, other in zip(files, names, strict=True):
        if other != names[0]:
            differing = ", ".join(sorted(other ^ names[0]))
            raise UserError(
                f"{path} and {files[0]} have different columns ({differing}); give files of one kind to corpus.path"
            )
    return names[0]


def _has_messages(schema: pa.Schema, texts: frozenset[str]) -> bool:
    return any(
        field.name in texts
        for field in schema
        if (pa.types.is_list(field.type) or pa.types.is_large_list(field.type))
        and pa.types.is_struct(field.type.value_type)
        and {"role", "content"} <= {child.name for child in field.type.value_type}
    )


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _first_rows(filesystem: pafs.FileSystem, path: str) -> list[dict[str, Any]]:
    try:
        with filesystem.open_input_stream(path) as stream:
            lines = itertools.islice(io.BufferedReader(stream), PEEK_ROWS)
            rows = [_parse_line(line) for line in lines if line.strip()]
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); repair or remove it") from None
    return [row for row in rows if UNREADABLE not in row]


def _read_lines(paths: pa.Table, filesystem: pafs.FileSystem) -> Iterator[pa.Table]:
    # ray.data.read_text also splits at other line separators than the newline, and those may stand inside JSON.
    for path in paths.column(0).to_pylist():
        try:
            with filesystem.open_input_stream(path) as stream:
                lines = (line for line in io.BufferedReader(stream) if line.strip())
                while block := list(itertools.islice(lines, ROWS_PER_BLOCK)):
                    yield pa.table({LINE: pa.array(block, pa.large_binary()), FILE: [path] * len(block)})
        except (OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}); repair or remove it") from None


def _open_hub(config: CorpusConfig) -> RawCorpus:
    import datasets
    import ray.data

    try:
        dataset = datasets.load_dataset(config.hub, config.hub_config, split=config.hub_split)
    except Exception as error:
        # datasets raises many unrelated types here; each means that this name cannot be loaded.
        raise UserError(
            f"corpus.hub {config.hub!r} split {config.hub_split!r} cannot be loaded ({type(error).__name__}: {error}); "
            "check the name, the split and the network, or use corpus.path"
        ) from None
    schema = dataset.features.arrow_schema
    # Not from_huggingface: it asks the hub for the files of what has been loaded already, and fails without one.
    rows = dataset.with_format("arrow")
    blocks = [rows[start : start + ROWS_PER_BLOCK] for start in range(0, len(dataset), ROWS_PER_BLOCK)]
    return RawCorpus(
        [ray.data.from_arrow(blocks)], frozenset(schema.names), _has_messages(schema, text_columns(config))
    )
