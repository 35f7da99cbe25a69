"""Files of another kind than their names say: each has its own sentence, before Ray starts."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.config import CorpusConfig
from pdray.corpus.stage import check
from pdray.errors import UserError
from pdray.paths import expand, takes_in
from pdray.stages import Upstream
from tests.corpus.cases import lines, rows

CSV = b"prompt,chosen,rejected,aspect\nq,a,b,c\n"


def look(path):
    check(SimpleNamespace(corpus=CorpusConfig(path=str(path)), seed=0), Upstream())


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", CSV, "comma-separated"),
        ("a.json", json.dumps(rows(3)).encode(), "one JSON array"),
        ("a.json", json.dumps(rows(3)[0], indent=1).encode(), "over several lines"),
        ("a.jsonl", gzip.compress(lines(rows(3))), r"is gzip; .*\.jsonl\.gz"),
        ("a.jsonl", lines(rows(3)).replace(b"\n", b"\r"), "carriage returns"),
        ("a.jsonl", lines(rows(3)).decode().encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"<!DOCTYPE html>\n", "HTML"),
        ("a.parquet", lines(rows(3)), "is JSONL; rename"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_each_kind_has_its_own_sentence(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
        look(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (CSV, r"is comma-separated text .*read_csv\('a\.jsonl'"),
        (json.dumps(rows(3)).encode(), r"is one JSON array; .* jq -c '\.\[\]' a\.jsonl$"),
        (json.dumps(rows(3)[0], indent=1).encode(), "is JSON objects that go over several lines"),
        (lines(rows(3)).decode().encode("utf-16"), "is UTF-16"),
        (gzip.compress(lines(rows(3))), "is gzip"),
    ],
)
def test_what_is_packed_is_told_as_what_it_is(tmp_path, data, words):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    with pytest.raises(UserError, match=rf"^in {tmp_path}/a\.jsonl\.gz, a\.jsonl {words}"):
        look(tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_files_without_rows(tmp_path, name):
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows(3)).slice(0, 0), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(b"\n") if name.endswith("gz") else b"")
    with pytest.raises(UserError, match=rf"^no file of corpus\.path holds a row \({tmp_path}\); check the path"):
        look(tmp_path)
    (tmp_path / name.replace("a.", "b.")).write_bytes((tmp_path / name).read_bytes())
    if not name.endswith("parquet"):
        (tmp_path / "c.jsonl").write_bytes(lines(rows(3)))
        look(tmp_path)


def test_what_save_to_disk_wrote(tmp_path):
    folder = tmp_path / "ds" / "train"
    folder.mkdir(parents=True)
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        (folder / name).write_text('{\n "a": 1\n}')
    told = rf"^{folder} is what save_to_disk .*; .*datasets\.load_from_disk\('{folder}'\)\.to_parquet\(OUT\)$"
    for path in (tmp_path, folder):
        with pytest.raises(UserError, match=told):
            look(path)


def test_all_such_files_are_named_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(CSV)
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(b"{}"))
    (tmp_path / "c.parquet").write_bytes(b"")
    with pytest.raises(UserError) as refused:
        look(tmp_path)
    assert len(str(refused.value).splitlines()) == 3


def test_types_that_no_other_holds_and_columns_twice(tmp_path):
    pq.write_table(pa.Table.from_pylist(rows(3)), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows(3, pair_id=7)), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet and .*a\.parquet have different types in the column 'pair_id'"):
        look(tmp_path)
    table = pa.Table.from_pylist(rows(3))
    pq.write_table(table.append_column("prompt", table["chosen"]), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet has two columns of the name 'prompt'"):
        look(tmp_path)


def test_a_circle_of_links_is_walked_once(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(rows(3)))
    (tmp_path / "circle").symlink_to(tmp_path)
    assert expand(str(tmp_path)) == [str(tmp_path / "a.jsonl")]


def test_a_run_folder_inside_the_corpus_is_found(tmp_path):
    run = tmp_path / "run"
    assert takes_in(str(tmp_path), str(run)) == str(run)
    assert takes_in(f"{tmp_path}/**/*", str(run)) == str(run)
    assert takes_in(f"{tmp_path}/*.jsonl", str(run)) is None
    old = tmp_path / "in" / "old" / "selection-0123abcd" / "kept"
    old.mkdir(parents=True)
    (tmp_path / "in" / "old" / "run.json").write_text("{}")
    (old / "x.parquet").write_bytes(b"")
    assert takes_in(str(tmp_path / "in"), str(run)) == str(old.parent)
    assert takes_in(str(old), str(run)) is None
