"""Parquet files as blocks of rows; a large one is read by several tasks, each some of its row groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pdray.corpus.kinds import NEEDED, OTHERS, is_away, read_head, unreadable, unreadable_kind, wrong_kind
from pdray.corpus.lines import FILE, PIECE_BYTES, RESERVED, ROWS_PER_BLOCK
from pdray.errors import UserError
from pdray.filesystems import patient

MAGIC = b"PAR1"


@dataclass(frozen=True)
class Footer:
    """What the footer of a parquet file says.

    Attributes:
        path: of the file.
        schema: of its rows.
        group_bytes: size of each row group, not packed.
        group_rows: rows of each row group.
    """

    path: str
    schema: pa.Schema
    group_bytes: list[int]
    group_rows: list[int]


def read_footer(filesystem: pafs.FileSystem, path: str) -> Footer:
    """The footer of a parquet file.

    Raises:
        UserError: it is none, it is damaged, or two of its columns have one name.
    """
    try:
        metadata = pq.read_metadata(path, filesystem=filesystem)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise UserError(_no_parquet(filesystem, path, error)) from None
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise UserError(f"{path} has two columns of the name {twice[0]!r}; write it again with one of them")
    if reserved := sorted(set(RESERVED) & set(schema.names)):
        raise UserError(f"{path} has a column {reserved[0]!r}, a name that pdray uses itself; rename that column")
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    return Footer(path, schema, [group.total_byte_size for group in groups], [group.num_rows for group in groups])


def _no_parquet(filesystem: pafs.FileSystem, path: str, error: Exception) -> str:
    try:
        head = read_head(filesystem, path)
    except OSError:
        head = b""
    if is_away(error) or isinstance(error, PermissionError):
        return unreadable(path, error)
    if head and not head.startswith(MAGIC):
        return wrong_kind(path, head, is_text=True) or unreadable_kind(path, head)
    return f"{path} is not a readable parquet file ({error}); {NEEDED}: repair or remove it, {OTHERS}"


def common_schema(footers: list[Footer]) -> pa.Schema:
    """The one schema that all files can be read in.

    Raises:
        UserError: two files differ in the names of their columns, or in a type that no other type holds.
    """
    first = footers[0]
    whole = _plain(first.schema)
    for other in footers[1:]:
        if differing := set(other.schema.names) ^ set(first.schema.names):
            raise UserError(
                f"{other.path} and {first.path} have different columns ({', '.join(sorted(differing))}); give files of "
                "one kind to corpus.path"
            )
        for field in _plain(other.schema):
            try:
                kind = _wider(whole.field(field.name), field)
            except pa.ArrowException:
                raise UserError(
                    f"{other.path} and {first.path} have different types in the column {field.name!r} ({field.type} "
                    f"and {whole.field(field.name).type}); write them with one type, or give one kind to corpus.path"
                ) from None
            whole = whole.set(whole.get_field_index(field.name), kind)
    return whole


def _wider(one: pa.Field, other: pa.Field) -> pa.Field:
    """A field that holds the values of two; numbers widen, text and lists do not become each other."""
    return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)


def _plain(schema: pa.Schema) -> pa.Schema:
    """Dictionary columns as columns of their values: only how they are packed differs."""
    fields = [
        pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in schema
    ]
    return pa.schema(fields)


def cut_groups(footers: list[Footer]) -> list[dict[str, Any]]:
    """Pieces ``{file, start, end, rows, bytes}`` of some files, in row groups; a file without any is an empty piece."""
    pieces: list[dict[str, Any]] = []
    for footer in footers:
        start = size = 0
        for group, num_bytes in enumerate(footer.group_bytes):
            if group > start and size + num_bytes > PIECE_BYTES:
                pieces.append(_piece(footer, start, group))
                start, size = group, 0
            size += num_bytes
        pieces.append(_piece(footer, start, len(footer.group_bytes)))
    return pieces


def _piece(footer: Footer, start: int, end: int) -> dict[str, Any]:
    sums = {"rows": sum(footer.group_rows[start:end]), "bytes": sum(footer.group_bytes[start:end])}
    return {FILE: footer.path, "start": start, "end": end, **sums}


def read_groups(pieces: pa.Table, filesystem: pafs.FileSystem, schema: pa.Schema) -> Iterator[pa.Table]:
    """Blocks of rows of some pieces, in one schema, with the ``FILE`` that they come from.

    Raises:
        UserError: a page is damaged, or a value does not fit the schema.
    """
    filesystem = patient(filesystem)
    for piece in pieces.to_pylist():
        path = piece[FILE]
        for rows in _batches(filesystem, path, list(range(piece["start"], piece["end"]))):
            try:
                table = pa.Table.from_batches([rows]).select(schema.names).cast(schema)
            except pa.ArrowException as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{path} has values that do not fit the type of their column in the other files ({reason}); write "
                    "the files with one type"
                ) from None
            yield table.append_column(FILE, pa.array([path] * len(table), pa.string()))


def _batches(filesystem: pafs.FileSystem, path: str, groups: list[int]) -> Iterator[pa.RecordBatch]:
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
            yield from file.iter_batches(ROWS_PER_BLOCK, row_groups=groups) if groups else ()
    except (pa.ArrowException, OSError) as error:
        if is_away(error) or isinstance(error, PermissionError):
            raise UserError(unreadable(path, error)) from None
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}); copy or write it again, {OTHERS}") from None
