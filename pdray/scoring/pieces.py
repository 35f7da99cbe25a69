"""The corpus cut into pieces of rows, the units of work of the pass.

Ray Data's own parquet reader asks for a whole CPU to list files, which a cluster full of scoring actors does not
have, and makes one block of a small file, which keeps all actors but one idle.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdray.scoring.encode import KEPT_COLUMNS, TEXT_COLUMNS, PairTokenizer
from pdray.survey import parquet_files

PIECES_PER_ACTOR = 8
MAX_ROWS = 2048  # those of the corpus's row groups: enough pairs and a piece is one of them, read once
MAX_BLOCKS = 10_000  # of Ray Data, so that they stay countable; a block of many pairs holds several pieces


def cut_pieces(folder: Path, piece_rows: int) -> list[dict[str, Any]]:
    """Cut the row groups of a folder's parquet files into even pieces.

    Args:
        folder: holds ``*.parquet``.
        piece_rows: most rows of a piece.

    Returns:
        ``path``, ``row_group``, ``start`` and ``rows`` of each piece; together they are every row once.
    """
    pieces = []
    for path in parquet_files(folder):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            count = -(-rows // piece_rows)
            bounds = [rows * i // count for i in range(count + 1)] if count else []
            for start, stop in itertools.pairwise(bounds):
                pieces.append({"path": str(path), "row_group": group, "start": start, "rows": stop - start})
    return pieces


def rows_per_piece(rows: int, batch_size: int, num_actors: int) -> int:
    """Small enough that every actor gets several, and at least a batch."""
    even = rows // (num_actors * PIECES_PER_ACTOR)
    return min(max(even, batch_size), MAX_ROWS)


@dataclass(frozen=True)
class PieceEncoder:
    """Reads pieces and encodes them: a table of pieces in, what ``PairTokenizer`` returns out."""

    tokenizer: PairTokenizer

    def __call__(self, pieces: pa.Table) -> pa.Table:
        """Read and encode; ``pieces`` has the columns of :func:`cut_pieces`."""
        return pa.concat_tables([self.tokenizer(read_piece(piece)) for piece in pieces.to_pylist()])


def read_piece(piece: dict[str, Any]) -> pa.Table:
    """The rows of a piece, text and kept columns only."""
    file = pq.ParquetFile(piece["path"])
    columns = [name for name in (*KEPT_COLUMNS, *TEXT_COLUMNS) if name in file.schema_arrow.names]
    return file.read_row_group(piece["row_group"], columns=columns).slice(piece["start"], piece["rows"])
