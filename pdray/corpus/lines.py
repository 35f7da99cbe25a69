"""JSONL files as blocks of lines; a large one is read by several tasks, each a piece of it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pdray.corpus.kinds import packed_kind, read_head, unreadable, unreadable_kind, wrong_kind
from pdray.errors import UserError
from pdray.filesystems import patient
from pdray.paths import COMPRESSION_SUFFIXES

LINE = "__line__"
FILE = "__file__"
UNREADABLE = "__unreadable__"
RESERVED = (LINE, FILE, UNREADABLE)
PEEK_ROWS = 100
ROWS_PER_BLOCK = 10_000
PIECE_BYTES = 64 * 2**20
BUFFER_BYTES = 4 * 2**20
WHOLE = -1  # the end of a piece that is a whole file, of a size that is not known before it is unpacked


def parse_line(data: bytes) -> dict[str, Any]:
    """A line as a row; one that is no JSON object gives ``{UNREADABLE: reason, "line": data}``."""
    try:
        row = json.loads(data)
    except UnicodeDecodeError:
        return {UNREADABLE: "not UTF-8", "line": data}
    except (ValueError, RecursionError):  # a plain ValueError: a number of too many digits
        return {UNREADABLE: "not JSON", "line": data}
    if not isinstance(row, dict):
        return {UNREADABLE: "not a JSON object", "line": data}
    if UNREADABLE in row:
        return {UNREADABLE: f"has a column of pdray's own name {UNREADABLE}", "line": data}
    return row


def first_rows(filesystem: pafs.FileSystem, path: str) -> list[dict[str, Any]]:
    """The rows in the first lines of a file.

    Raises:
        UserError: it cannot be read, or is of another kind than JSONL.
    """
    try:
        head = read_head(filesystem, path)
        is_packed = path.endswith(COMPRESSION_SUFFIXES[1:])  # as Arrow sees it, which minds the case
        if sentence := wrong_kind(path, head, is_text=not is_packed):
            raise UserError(sentence)
        with filesystem.open_input_stream(path) as stream:
            lines = list(itertools.islice(io.BufferedReader(stream), PEEK_ROWS))
    except (OSError, EOFError) as error:
        raise UserError(unreadable(path, error)) from None
    rows = [parse_line(line) for line in lines if line.strip()]
    readable = [row for row in rows if UNREADABLE not in row]
    if is_packed and rows and (sentence := packed_kind(path, b"".join(lines), bool(readable))):
        raise UserError(sentence)
    if rows and not readable:
        raise UserError(unreadable_kind(path, head))
    return readable


def cut_pieces(filesystem: pafs.FileSystem, files: list[str]) -> list[dict[str, Any]]:
    """Pieces ``{path, start, end}`` of some files, in bytes; a packed file is one piece."""
    pieces = []
    for info in filesystem.get_file_info(files):
        if info.path.endswith(COMPRESSION_SUFFIXES[1:]):  # Arrow unpacks them as it reads
            ranges = [(0, WHOLE)]
        else:
            size = info.size or 0
            ranges = [(start, min(start + PIECE_BYTES, size)) for start in range(0, max(size, 1), PIECE_BYTES)]
        pieces += [{FILE: info.path, "start": start, "end": end} for start, end in ranges]
    return pieces


def read_pieces(pieces: pa.Table, filesystem: pafs.FileSystem) -> Iterator[pa.Table]:
    """Blocks of ``LINE`` and ``FILE``, a row for each line of some pieces that is not blank."""
    # ray.data.read_text also splits at other line separators than the newline, and those may stand inside JSON.
    filesystem = patient(filesystem)
    for piece in pieces.to_pylist():
        path = piece[FILE]
        try:
            lines = (line for line in piece_lines(filesystem, path, piece["start"], piece["end"]) if line.strip())
            while block := list(itertools.islice(lines, ROWS_PER_BLOCK)):
                yield pa.table({LINE: pa.array(block, pa.large_binary()), FILE: [path] * len(block)})
        except (OSError, EOFError) as error:
            raise UserError(unreadable(path, error)) from None


def piece_lines(filesystem: pafs.FileSystem, path: str, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin at ``start`` or later and before ``end``, whole; of all pieces, every line once."""
    if end == WHOLE:
        with filesystem.open_input_stream(path) as stream:
            yield from io.BufferedReader(stream, BUFFER_BYTES)
        return
    with filesystem.open_input_file(path) as file:
        # A line that began before belongs to the piece before; the byte before tells whether one did.
        file.seek(max(start - 1, 0))
        reader = io.BufferedReader(file, BUFFER_BYTES)
        place = start - 1 + len(reader.readline()) if start else 0
        while place < end and (line := reader.readline()):
            place += len(line)
            yield line
