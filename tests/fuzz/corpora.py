"""Corpus files of any kind: good rows and odd ones, in files that are what their names say and in others."""

from __future__ import annotations

import bz2
import csv
import decimal
import gzip
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.fuzz.damage import Damage, damages, remove
from tests.fuzz.values import texts, values
from tests.fuzz.world import ASPECTS, pairs

Row = dict[str, Any]

NAMES = (
    *["a.jsonl", "a.json", "a.parquet", "b.parquet", "b.jsonl"] * 2, "a.ndjson", "a.jsonl.gz", "a.jsonl.zst",
    "a.jsonl.bz2",
    "a.jsonl.lz4", "a.JSONL", "a.Parquet", "a.jsonl.GZ", "ü ñ.jsonl", "a\nb.jsonl", "[x].jsonl", "*.jsonl",
    "-x.jsonl", "a?b#c.parquet",
    "prompt=1/a.jsonl", "aspect=helpful/a.jsonl", "aspect=honest/a.parquet", "aspect=/a.parquet", "%41.jsonl",
    "sub/x/a.parquet",
    "\udcff.jsonl", ".a.jsonl", "_a.parquet", "a.parquet.gz", "a.txt", "a:b.jsonl", "~.jsonl", "a\x1b[2J.parquet",
    "'.jsonl",
)  # fmt: skip
# What a row of each form has.
FORMS: dict[str, Callable[[Row], list[Row]]] = {
    "pairs": lambda row: [row],
    "conversations": lambda row: [
        row
        | {"prompt": _turn("user", row["prompt"])}
        | {side: _turn("user", row["prompt"]) + _turn("assistant", row[side]) for side in ("chosen", "rejected")}
    ],
    "rated pairs": lambda row: [
        {"prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"]}
        | {f"score_{side}.{aspect}": len(row[name]) % 5 for side, name in _SIDES for aspect in ASPECTS}
    ],
    "rated responses": lambda row: [
        {"prompt": row["prompt"], "response": row[name]}
        | {f"rating.{aspect}": len(row[name]) % 5 for aspect in ASPECTS}
        for _, name in _SIDES
    ],
    "implicit prompt": lambda row: [
        {"aspect": row["aspect"]} | {name: f"{row['prompt']} {row[name]}" for _, name in _SIDES}
    ],
}
_SIDES = (("a", "chosen"), ("b", "rejected"))
ARRAYS: list[pa.DataType] = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string()), pa.int8(),
    pa.uint64(),
    pa.float16(), pa.float64(), pa.bool_(), pa.null(), pa.date32(), pa.timestamp("ns", "UTC"), pa.duration("s"),
    pa.decimal128(5, 2),
    pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.int64(), 2), pa.struct([("role", pa.string())]),
    pa.struct([]),
    pa.map_(pa.string(), pa.string()), pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    pa.list_(pa.struct([("role", pa.int64()), ("content", pa.binary())])), pa.binary(3),
    pa.month_day_nano_interval(), pa.uuid(),
]  # fmt: skip


def _turn(role: str, text: str) -> list[Row]:
    return [{"role": role, "content": text}]


@dataclass(frozen=True)
class CorpusFile:
    """A file to be written.

    Attributes:
        name: below the corpus folder.
        kind: how rows become bytes, a key of :data:`KINDS`.
        form: a key of :data:`FORMS`.
        rows: how many pairs it is made from.
        edits: ``(row, column, value)`` that replace or add a value.
        columns: types of parquet columns that replace good ones, by name.
        damage: that is done to the bytes.
    """

    name: str
    kind: str
    form: str
    rows: int
    edits: list[tuple[int, str, Any]]
    columns: dict[str, int]
    damage: Damage | None

    def write(self, folder: Path) -> None:
        """Write it, in place of what has its name."""
        path = Path(os.fsdecode(os.fsencode(str(folder)) + b"/" + self.name.encode("utf-8", "surrogateescape")))
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(path)  # an earlier file of this name may have become a pipe
        path.write_bytes(KINDS[self.kind](self))
        if self.damage:
            self.damage.apply(folder)

    def data(self) -> list[Row]:
        """The rows."""
        found = [row for pair in pairs(self.rows) for row in FORMS[self.form](pair)]
        for number, column, value in self.edits:
            if found:
                found[number % len(found)][column] = value
        return found

    def table(self) -> pa.Table:
        """The rows as far as Arrow takes them, with some columns of other types."""
        rows = [row for pair in pairs(self.rows) for row in FORMS[self.form](pair)]
        table = pa.Table.from_pylist(rows, schema=None if rows else pa.schema([("prompt", pa.string())]))
        for name, number in self.columns.items():
            column = _odd_column(ARRAYS[number % len(ARRAYS)], len(table))
            place = table.schema.get_field_index(name)
            # A name that is there already may come twice.
            if place < 0 or number % 3 == 0:
                table = table.append_column(name, column)
            else:
                table = table.set_column(place, name, column)
        return table


def _odd_column(kind: pa.DataType, rows: int) -> pa.Array:
    samples = [
        "a",
        b"abc",
        3,
        1.5,
        True,
        decimal.Decimal("1.5"),
        ["a", "b"],
        [1, 2],
        {"role": "user"},
        {},
        [("a", "b")],
    ]
    samples += [[{"role": "user", "content": "x"}], [{"role": 1, "content": b"\xff"}], b"x" * 16]
    for sample in samples:
        try:
            return pa.array([sample if row % 5 else None for row in range(rows)], kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.nulls(rows, kind)


def _lines(file: CorpusFile) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in file.data()).encode()


def _csv(file: CorpusFile) -> bytes:
    text = io.StringIO()
    rows = [
        {name: str(value).encode("utf-8", "replace").decode() for name, value in row.items()} for row in file.data()
    ]
    writer = csv.DictWriter(text, sorted({name for row in rows for name in row}))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _parquet(file: CorpusFile, **options: Any) -> bytes:
    sink = io.BytesIO()
    try:
        pq.write_table(file.table(), sink, **options)
    except (pa.ArrowException, ValueError):  # a type that parquet has not
        return _lines(file)
    return sink.getvalue()


def _arrow(file: CorpusFile) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(pairs_table(file.rows), sink)
    return sink.getvalue()


def pairs_table(rows: int) -> pa.Table:
    """Good pairs."""
    return pa.Table.from_pylist(pairs(max(rows, 1)))


KINDS: dict[str, Callable[[CorpusFile], bytes]] = {
    "lines": _lines,
    "parquet": _parquet,
    "parquet in small groups": lambda file: _parquet(
        file, row_group_size=3, data_page_version="2.0", compression="zstd"
    ),
    "parquet without dictionary": lambda file: _parquet(file, use_dictionary=False, compression="none"),
    "gzip": lambda file: gzip.compress(_lines(file), mtime=0),
    "gzip twice": lambda file: gzip.compress(gzip.compress(_lines(file), mtime=0), mtime=0),
    "bzip2": lambda file: bz2.compress(_lines(file)),
    "zstd": lambda file: bytes(pa.compress(_lines(file), "zstd", asbytes=True)),
    "lines of carriage returns": lambda file: _lines(file).replace(b"\n", b"\r"),
    "lines with blank ones": lambda file: b"\n \r\n" + _lines(file).replace(b"\n", b"\r\n\n"),
    "lines without an end": lambda file: _lines(file).rstrip(b"\n"),
    "lines after a mark": lambda file: b"\xef\xbb\xbf" + _lines(file),
    "lines in UTF-16": lambda file: _lines(file).decode().encode("utf-16"),
    "lines in latin-1": lambda file: "".join(
        json.dumps(row | {"prompt": "é"}, ensure_ascii=False) + "\n" for row in pairs(file.rows)
    ).encode("latin-1"),
    "array": lambda file: json.dumps(file.data()).encode(),
    "indented": lambda file: "\n".join(json.dumps(row, indent=1) for row in file.data()).encode(),
    "CSV": _csv,
    "arrow": _arrow,
    "nothing": lambda file: b"",
    "not finite": lambda file: _lines(file) + b'{"prompt": NaN, "chosen": Infinity, "rejected": 1e999, "aspect": -0}\n',
    "key twice": lambda file: (
        _lines(file) + b'{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d", "aspect": "e"}\n'
    ),
    "rubbish between": lambda file: _lines(file).replace(b"}\n", b"}\n\xff\n[1]\n7\n{\n" + b"[" * 2000 + b"\n", 1),
}
GOOD = ("lines", "parquet", "parquet in small groups", "parquet without dictionary")
columns = st.sampled_from(
    ["pair_id", "prompt", "chosen", "rejected", "aspect", "source", "overall", "response", "response_a", "rating.x",
    "rating.helpful",
     "score_chosen.helpful", "score_rejected.helpful", "score_a.honest", "path", "__file__", "__line__", "",
     "prompt ", "Prompt", "a.b"]
) | texts  # fmt: skip


@st.composite
def corpus_files(draw: st.DrawFn) -> CorpusFile:
    """One file; most have the kind that their name asks for."""
    name = draw(st.sampled_from(NAMES))
    fitting = [kind for kind in KINDS if kind.startswith("parquet")] if ".parquet" in name.lower() else ["lines"] * 3
    fitting += {"gz": ["gzip"], "bz2": ["bzip2"], "zst": ["zstd"]}.get(name.rpartition(".")[2].lower(), []) * 9
    kind = draw(
        st.sampled_from(fitting) | st.sampled_from(list(KINDS)) if draw(st.integers(0, 2)) else st.sampled_from(fitting)
    )
    return CorpusFile(
        name=name,
        kind=kind,
        form=draw(st.sampled_from(["pairs", "pairs", *FORMS])),
        rows=draw(st.sampled_from([0, 1, 3, 6, 12])),
        edits=draw(st.lists(st.tuples(st.integers(0, 20), columns, values), max_size=3)),
        columns=draw(st.dictionaries(columns.filter(_is_text), st.integers(0, 100), max_size=2)),
        damage=draw(st.none() | st.none() | damages([name])),
    )


def _is_text(name: str) -> bool:
    """Whether Arrow takes a name for a column."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
