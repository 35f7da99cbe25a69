"""Some rows of the files of a corpus: all of a small one, evenly spread chunks of a large one, the same for a seed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.corpus.lines import FILE, LINE, WHOLE, piece_lines, read_pieces
from pdray.corpus.read import Part
from pdray.corpus.tables import read_groups
from pdray.errors import UserError

WHOLE_BYTES = 64 * 2**20  # a corpus of so many bytes, unpacked, is read whole
WHOLE_ROWS = 50_000  # unless it has more rows: parquet tells the bytes of a text once, however often it stands there
CHUNKS = 16
PACKING = 4  # times that a packed text is larger once unpacked, until it is read


@dataclass(frozen=True)
class Chunks:
    """Rows of a corpus.

    Attributes:
        tables: blocks of raw rows, each of neighbouring ones.
        rows: of the whole corpus.
        input_bytes: of its files, as :func:`bytes_of` counts them.
        whole: whether the tables are all there is.
        exact_rows: whether ``rows`` is counted and not estimated.
        notes: how it was read, where that is no even sample.
    """

    tables: list[pa.Table]
    rows: float
    input_bytes: float
    whole: bool
    exact_rows: bool
    notes: list[str] = field(default_factory=list)


def read_chunks(parts: list[Part], seed: int) -> Chunks:
    """Read some rows.

    Args:
        parts: the files.
        seed: of the places that are read.

    Raises:
        UserError: a file is damaged.
    """
    sizes = [[bytes_of(part, piece) for piece in _measured(part)] for part in parts]
    total, known_rows = sum(map(sum, sizes)), sum(piece.get("rows", 0) for part in parts for piece in part.pieces)
    if total <= WHOLE_BYTES and known_rows <= WHOLE_ROWS:
        tables = [table for part in parts for table in _all_rows(part)]
        return Chunks(tables, sum(map(len, tables)), total, True, True)
    return _spread(parts, sizes, total, np.random.default_rng([seed, 1]))


def bytes_of(part: Part, piece: dict[str, Any]) -> int:
    """Bytes of a piece once it is unpacked; of packed text a guess."""
    if part.schema is not None:
        return int(piece["bytes"])
    return int(piece["size"]) * PACKING if piece["end"] == WHOLE else int(piece["end"] - piece["start"])


def _measured(part: Part) -> list[dict[str, Any]]:
    """The pieces, those that are whole packed files with their ``size``."""
    packed = [piece[FILE] for piece in part.pieces if part.schema is None and piece["end"] == WHOLE]
    sizes = {info.path: info.size or 0 for info in part.filesystem.get_file_info(packed)} if packed else {}
    return [piece | {"size": sizes.get(piece[FILE], 0)} for piece in part.pieces]


def _all_rows(part: Part) -> Iterator[pa.Table]:
    pieces = pa.Table.from_pylist(part.pieces)
    if part.schema is None:
        yield from read_pieces(pieces, part.filesystem)
    else:
        yield from read_groups(pieces, part.filesystem, part.schema)


def _spread(parts: list[Part], sizes: list[list[int]], total: int, draw: np.random.Generator) -> Chunks:
    """A chunk at a drawn place in each of as many equal ranges of all bytes, laid end to end."""
    line = [(part, piece) for part in parts for piece in _measured(part)]
    ends = np.cumsum([size for of_part in sizes for size in of_part])
    wanted = min(WHOLE_BYTES, total) // CHUNKS
    # Each chunk ends where the next range begins, at the latest: a row that is read twice would count as a repetition.
    starts = [number * total / CHUNKS + draw.random() * (total / CHUNKS - wanted) for number in range(CHUNKS)]
    places = np.searchsorted(ends, starts, side="right")
    tables: list[pa.Table] = []
    text_rows = text_bytes = 0.0
    packed: dict[str, float] = {}  # rows a packed byte
    for start, place in zip(starts, places.tolist(), strict=True):
        part, piece = line[place]
        inside = start - (ends[place - 1] if place else 0)
        if part.schema is not None:
            tables.append(_rows_of_groups(part, piece, inside, wanted))
        elif piece["end"] != WHOLE:
            lines, read = _lines_at(part, piece, inside, wanted)
            tables.append(lines)
            text_rows, text_bytes = text_rows + len(lines), text_bytes + read
        elif piece[FILE] not in packed:
            share = wanted * places.tolist().count(place)
            lines, packed[piece[FILE]] = _packed_lines(part, piece, share)
            tables.append(lines)
    rows = _all_rows_estimated(line, text_rows / text_bytes if text_bytes else 0.0, packed)
    counted = all(part.schema is not None for part in parts)
    notes = ["packed files were read from their beginning, so what differs further on is not seen"] if packed else []
    return Chunks([table for table in tables if len(table)], rows, total, False, counted, notes)


def _all_rows_estimated(line: list[tuple[Part, dict[str, Any]]], a_byte: float, packed: dict[str, float]) -> float:
    """Rows of the corpus: counted in parquet, by bytes in text."""
    mean = sum(packed.values()) / len(packed) if packed else 0.0
    known = {True: mean or a_byte * PACKING, False: a_byte or mean / PACKING}  # where chance read one kind alone
    rows = 0.0
    for part, piece in line:
        if part.schema is not None:
            rows += piece["rows"]
        elif piece["end"] == WHOLE:
            rows += piece["size"] * packed.get(piece[FILE], known[True])
        else:
            rows += (piece["end"] - piece["start"]) * known[False]
    return rows


def _rows_of_groups(part: Part, piece: dict[str, Any], inside: float, wanted: int) -> pa.Table:
    """About so many bytes of rows of a piece of a parquet file, from a place in it."""
    a_row = max(1.0, piece["bytes"] / max(1, piece["rows"]))
    count = min(max(1, int(wanted / a_row)), WHOLE_ROWS // CHUNKS)
    skip = int(inside / a_row)
    found: list[pa.Table] = []
    assert part.schema is not None
    for table in read_groups(pa.Table.from_pylist([piece]), part.filesystem, part.schema):
        taken = table.slice(skip, count)
        skip = max(0, skip - len(table))
        if len(taken):
            found.append(taken)
            count -= len(taken)
        if count <= 0:
            break
    return pa.concat_tables(found) if found else pa.table({FILE: pa.array([], pa.string())})


def _lines_at(part: Part, piece: dict[str, Any], inside: float, wanted: int) -> tuple[pa.Table, int]:
    """The lines of a text file that begin in a range of it, and its bytes."""
    start = int(piece["start"] + inside)
    end = min(start + wanted, piece["end"])
    try:
        lines = [line for line in piece_lines(part.filesystem, piece[FILE], start, end) if line.strip()]
    except OSError as error:
        raise UserError(f"{piece[FILE]} cannot be read ({error}); repair or remove it") from None
    return _as_table(lines, piece[FILE]), end - start


def _packed_lines(part: Part, piece: dict[str, Any], wanted: int) -> tuple[pa.Table, float]:
    """The first lines of a packed file, and how many rows a packed byte holds.

    Packed bytes are taken some at a time; when the next ones are, those before are all unpacked.
    """
    path, read = piece[FILE], 0
    lines: list[bytes] = []
    rows = taken = unpacked = 0
    try:
        with part.filesystem.open_input_file(path) as raw:
            reader = io.BufferedReader(pa.CompressedInputStream(raw, pa.Codec.detect(path).name))
            for line in reader:
                if raw.tell() > taken:
                    rows, unpacked, taken = len(lines), taken, raw.tell()
                    if unpacked and read >= wanted:
                        break
                read += len(line)
                if line.strip():
                    lines.append(line)
            else:
                rows, unpacked = len(lines), piece["size"]
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); repair or remove it") from None
    return _as_table(lines, path), rows / max(1, unpacked)


def _as_table(lines: list[bytes], path: str) -> pa.Table:
    return pa.table({LINE: pa.array(lines, pa.large_binary()), FILE: pa.array([path] * len(lines), pa.string())})
