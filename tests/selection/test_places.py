"""Texts at row numbers of a shard, however its column is divided into row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.errors import UserError
from pdray.selection.kept import read_places
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

TEXTS = [f"text {row} {'é' * (row % 7)}" for row in range(500)]


@pytest.fixture(params=[1, 64, 500], ids=["rows", "groups", "one group"])
def corpus(request, tmp_path: Path, monkeypatch) -> ShardedFolder:
    monkeypatch.setattr("pdray.storage.ROWS_PER_GROUP", request.param)
    corpus = ShardedFolder(StoragePath(str(tmp_path)), "made by a test", 1)
    corpus.write(0, {"texts": pa.table({"response": TEXTS}), "none": pa.table({"response": TEXTS[:0]})}, 0, {})
    return corpus


@pytest.mark.parametrize("seed", range(4))
def test_every_place_gets_its_text(corpus, seed):
    rng = np.random.default_rng(seed)
    places = [rng.integers(0, len(TEXTS), 80), np.array([len(TEXTS) - 1, 0, 0]), np.array([], int)]
    found = read_places(corpus, 0, "texts", "response", places)
    assert [column.to_pylist() for column in found] == [[TEXTS[row] for row in rows] for rows in places]
    assert {column.type for column in found} == {pa.string()}


def test_no_place_and_no_row(corpus):
    nowhere = [np.array([], int)]
    assert read_places(corpus, 0, "texts", "response", nowhere)[0].to_pylist() == []
    assert read_places(corpus, 0, "none", "response", nowhere)[0].to_pylist() == []


def test_a_row_that_is_not_there_is_named(corpus):
    with pytest.raises(UserError, match=r"shard-00000\.parquet lacks rows that pairs name; run again"):
        read_places(corpus, 0, "texts", "response", [np.array([3]), np.array([len(TEXTS)])])
