"""Pieces of JSONL files: together they give every line once."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pdray.corpus import lines as corpus_lines
from pdray.corpus.lines import FILE, LINE, WHOLE, cut_pieces, parse_line, piece_lines, read_pieces

LOCAL = pafs.LocalFileSystem()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_every_line_is_in_one_piece_whatever_their_size(tmp_path, monkeypatch, newline, end):
    wanted = [b"first", b"", b"a longer line than most pieces are", "zwölf\u2028x".encode(), b"x"]
    path = tmp_path / "in.jsonl"
    path.write_bytes(newline.join(wanted) + end)
    size = path.stat().st_size
    for piece_bytes in range(1, size + 2):
        monkeypatch.setattr(corpus_lines, "PIECE_BYTES", piece_bytes)
        pieces = cut_pieces(LOCAL, [str(path)])
        assert len(pieces) == -(-size // piece_bytes)
        found = [line for piece in pieces for line in piece_lines(LOCAL, str(path), piece["start"], piece["end"])]
        assert [line.rstrip(b"\r\n") for line in found] == wanted


def test_a_packed_file_is_one_piece_and_an_empty_one_none(tmp_path):
    packed, empty = tmp_path / "in.jsonl.gz", tmp_path / "empty.jsonl"
    packed.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": 2}'))
    empty.write_bytes(b"")
    pieces = cut_pieces(LOCAL, [str(packed), str(empty)])
    assert [(piece[FILE], piece["end"]) for piece in pieces] == [(str(packed), WHOLE), (str(empty), 0)]
    blocks = list(read_pieces(pa.Table.from_pylist(pieces), LOCAL))
    assert [parse_line(line) for block in blocks for line in block[LINE].to_pylist()] == [{"a": 1}, {"a": 2}]
