"""Rows for tests of the corpus, and what a corpus stage wrote."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

from pdray.corpus.check import PLACE_SALT
from pdray.corpus.rows import canonical
from pdray.hashing import hash64
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from pdray.texts import read_texts
from tests.stages import FINGERPRINT


def rows(count, **change):
    """So many good pairs of two aspects, with a prompt of their own each."""
    return [
        {"pair_id": f"p{i}", "prompt": f"q{i}", "chosen": "good", "rejected": "bad", "aspect": "ab"[i % 2]} | change
        for i in range(count)
    ]


def lines(data):
    """JSONL."""
    return "".join(json.dumps(row) + "\n" for row in data).encode()


def write_lines(tmp_path, data):
    """A JSONL file."""
    (tmp_path / "in.jsonl").write_bytes(lines(data))
    return tmp_path / "in.jsonl"


def sharded(folder, num_shards):
    """The shards of a corpus stage that :func:`tests.stages.run_stage` ran."""
    return ShardedFolder(StoragePath(str(folder)), FINGERPRINT, num_shards)


def pairs_with_text(folder, result):
    """The pairs of all shards with their texts put back, sorted by ``pair_id``."""
    shards = sharded(folder, result.output.num_shards)
    tables = []
    for shard in range(result.output.num_shards):
        texts, pairs = read_texts(shards, shard), shards.read("pairs", shard)
        chosen, rejected = (texts.take(pairs[f"{side}_row"]) for side in ("chosen", "rejected"))
        assert chosen["prompt"].to_pylist() == rejected["prompt"].to_pylist()
        columns = {"prompt": chosen["prompt"], "chosen": chosen["response"], "rejected": rejected["response"]}
        for name, column in columns.items():
            pairs = pairs.append_column(name, column)
        tables.append(pairs)
    return pa.concat_tables(tables).sort_by("pair_id")


def quarantined(folder):
    """All rows of the quarantine."""
    files = sorted((folder / "quarantine").iterdir())
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def checked(data):
    """Good rows as the check leaves them: with the hash of their prompt."""
    places = hash64([canonical(row["prompt"]) for row in data], PLACE_SALT).tolist()
    return [
        row | {"repeated_prompt": False, "given_id": True, "place": place}
        for row, place in zip(data, places, strict=True)
    ]


def files_of(folder):
    """sha256 of every file that a corpus stage wrote, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
