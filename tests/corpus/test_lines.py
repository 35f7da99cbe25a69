"""Pieces of JSONL files: together they give every line once."""

from __future__ import annotations

import gzip
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pdray.corpus import lines as corpus_lines
from pdray.corpus.files import filesystem_of
from pdray.corpus.lines import FILE, LINE, WHOLE, cut_pieces, first_rows, parse_line, piece_lines, read_pieces
from pdray.corpus.tables import read_groups
from pdray.errors import UserError
from pdray.filesystems import S3_TIMEOUTS

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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("When reading information for key x: AWS Error SLOW_DOWN during HeadObject"), "run again when its"),
        (OSError("zlib inflate failed: incorrect header check"), "repair or remove it"),
        (EOFError("Compressed file ended"), "repair or remove it"),
    ],
)
def test_a_storage_that_fails_is_no_damaged_file(error, told):
    def fail(*unused, **options):
        raise error

    storage = SimpleNamespace(open_input_file=fail, open_input_stream=fail)
    pieces = pa.Table.from_pylist([{FILE: "b/a.jsonl", "start": 0, "end": 9}])
    with pytest.raises(UserError, match=rf"b/a\.jsonl cannot be read .*; {told}"):
        list(read_pieces(pieces, storage))
    with pytest.raises(UserError, match=told):
        first_rows(storage, "b/a.jsonl")
    with pytest.raises((UserError, EOFError), match=r"run again when its|is damaged|ended"):
        list(read_groups(pieces, storage, pa.schema({"a": pa.string()})))


def test_a_file_that_is_closed_to_this_user_is_no_damaged_one():
    def fail(*unused, **options):
        raise PermissionError(13, "Failed to open local file 'b/a.jsonl'. Detail: [errno 13] Permission denied")

    storage = SimpleNamespace(open_input_file=fail, open_input_stream=fail)
    pieces = pa.Table.from_pylist([{FILE: "b/a.jsonl", "start": 0, "end": 0}])
    told = r"b/a\.jsonl cannot be read \(Permission denied\); open it to the user of this process, or leave it out"
    for read in (
        lambda: list(read_pieces(pieces, storage)),
        lambda: first_rows(storage, "b/a.jsonl"),
        lambda: list(read_groups(pieces, storage, pa.schema({"a": pa.string()}))),
    ):
        with pytest.raises(UserError, match=rf"^{told}$"):
            read()


def test_object_storage_of_a_corpus_is_asked_as_patiently_as_that_of_a_run(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    filesystem, path = filesystem_of("s3://bucket/corpus?endpoint_override=http%3A%2F%2F127.0.0.1%3A9&region=x")
    assert path == "bucket/corpus"
    assert S3_TIMEOUTS.items() <= filesystem.__reduce__()[1][0].items()
