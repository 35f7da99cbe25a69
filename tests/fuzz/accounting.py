"""Whether the corpus stage accounts for every row: its own functions, one after the other, in this process."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pdray.config import RunConfig
from pdray.corpus.build import place_rows
from pdray.corpus.check import bad_responses, check_pairs, check_responses, checked_schema, pair_responses
from pdray.corpus.form import form_and_rules
from pdray.corpus.lines import read_pieces
from pdray.corpus.plan import make_plan
from pdray.corpus.read import Part, describe, look_at_files
from pdray.corpus.report import Report, add_up
from pdray.corpus.summary import summarise
from pdray.corpus.tables import read_groups
from pdray.corpus.write import QUARANTINE, ShardTask, write_shards
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath


class FakeCounter:
    """Counts nothing; the real one is an actor of Ray's."""

    def add(self, count: int) -> None:
        """Nothing."""

    def working(self, label: str) -> contextlib.AbstractContextManager[None]:
        """Nothing."""
        return contextlib.nullcontext()


def account(config: RunConfig, folder: Path) -> None:
    """Read, check and write a corpus, and fail if a row is neither a pair, nor quarantined, nor dropped and counted.

    Raises:
        UserError: the stage refuses the corpus.
    """
    corpus = config.corpus
    parts = look_at_files(corpus)
    form, rules = form_and_rules(corpus, describe(corpus, parts), config.seed)
    blocks = [block for part in parts for block in _blocks(part)]
    rows_in = sum(map(len, blocks))
    assert rows_in == sum(_rows_of(Path(piece["__file__"])) for part in parts for piece in part.pieces[:]), (
        "rows were read"
    )
    schema = checked_schema(rules)
    if form == "rated responses":
        responses = [check_responses(block, rules, FakeCounter()) for block in blocks]
        assert sum(map(len, responses)) == rows_in
        whole = pa.concat_tables(responses) if responses else None
        checked = [*pair_responses(whole, rules), bad_responses(whole, rules)] if whole else []
    else:
        checked = [check_pairs(block, rules, form == "rated pairs", FakeCounter()) for block in blocks]
    rows = pa.concat_tables([schema.empty_table(), *checked])
    if form != "rated responses":
        assert len(rows) == rows_in
    report = _written(rows, rules, sorted(rules.ratings), folder)
    assert report.rows == len(rows)
    assert report.rows == report.pairs + report.bad.total() + sum(report.dropped.values()), report
    quarantine = [line for path in folder.glob(f"{QUARANTINE}/*") for line in path.read_text().splitlines()]
    assert len(quarantine) == report.bad.total()
    assert all(json.loads(line)["reason"] for line in quarantine)
    assert sum(pq.read_metadata(path).num_rows for path in folder.glob("pairs/*.parquet")) == report.pairs


def _blocks(part: Part) -> list[pa.Table]:
    pieces = pa.Table.from_pylist(part.pieces)
    read = (
        read_pieces(pieces, part.filesystem)
        if part.schema is None
        else read_groups(pieces, part.filesystem, part.schema)
    )
    return list(read)


def _written(rows: pa.Table, rules: object, aspects: list[str], folder: Path) -> Report:
    plan = make_plan(summarise(rows, aspects), aspects, 10**6)  # one shard: ids that two shards have need Ray
    shards = ShardedFolder(StoragePath(str(folder)), "fuzz", plan.num_shards)
    placed = place_rows(rows, plan, rules, None)
    spans = np.array([plan.spans[aspect] for aspect in aspects])
    outcomes = write_shards(placed, ShardTask(shards, rules, spans, FakeCounter())).to_pylist()
    assert [one["error"] for one in outcomes] == [None] * len(outcomes), outcomes
    markers = shards.done()
    assert len(markers) == len(outcomes)
    return add_up(markers.values())


def _rows_of(path: Path) -> int:
    """Rows of a file, counted without pdray."""
    if path.suffix.lower() == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    data = path.read_bytes()
    unpack = {
        ".gz": _gunzip,
        ".bz2": bz2.decompress,
        ".zst": lambda one: bytes(pa.input_stream(pa.BufferReader(one), "zstd").read()),
    }
    if path.suffix in unpack:
        data = unpack[path.suffix](data)
    elif path.suffix == ".lz4":
        data = bytes(pa.input_stream(pa.BufferReader(data), "lz4").read())
    return sum(1 for line in data.split(b"\n") if line.strip())


def _gunzip(data: bytes) -> bytes:
    return gzip.decompress(data) if data else b""
