"""A shard is done or it is not: every way in which it can look done and is not, and the rounds that mend it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdray.errors import UserError
from pdray.shards import (
    Marker,
    Outcome,
    ShardedFolder,
    ShardsFailedError,
    _digest,
    content_of,
    error_text,
    remembering,
    run_rounds,
)
from pdray.storage import StoragePath


def table(shard: int, rows: int = 1000) -> pa.Table:
    ids = pa.array([f"{shard}-{row}" for row in range(rows)], pa.string())
    return pa.table({"id": ids, "x": pa.array(range(rows), pa.int64())})


def write(shards: ShardedFolder, shard: int) -> Marker:
    return shards.write(shard, {"texts": table(shard), "pairs": table(shard, 0)}, 2**64 + shard, {"seen": shard})


@pytest.fixture
def shards(folder: StoragePath) -> ShardedFolder:
    """Three shards, all done."""
    shards = ShardedFolder(folder, "a" * 64, 3)
    for shard in range(3):
        write(shards, shard)
    return shards


@pytest.fixture
def local(tmp_path: Path) -> ShardedFolder:
    """The same on the local disk alone."""
    shards = ShardedFolder(StoragePath(str(tmp_path)), "a" * 64, 3)
    for shard in range(3):
        write(shards, shard)
    return shards


def test_what_was_written_is_done_and_comes_back(shards: ShardedFolder) -> None:
    done = shards.done()
    assert sorted(done) == [0, 1, 2]
    assert (done[2].ids_sum, done[2].facts) == (2, {"seen": 2})
    assert {name: stated["rows"] for name, stated in done[2].files.items()} == {
        "texts/shard-00002.parquet": 1000,
        "pairs/shard-00002.parquet": 0,
    }
    assert shards.read("texts", 2)["id"].to_pylist()[7] == "2-7"
    assert shards.read("texts", 2, ["x"]).column_names == ["x"]
    assert len(shards.read("pairs", 2)) == 0


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_column_comes_in_parts_that_are_all_of_it(
    shards: ShardedFolder, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("pdray.shards.ROWS_PER_PART", 300)
    shards.write(1, {"texts": table(1, rows)}, 0, {})
    parts = list(shards.parts("texts", 1, "id"))
    assert [text for part in parts for text in part.to_pylist()] == [f"1-{row}" for row in range(rows)]
    assert [len(part) for part in parts] == {0: [0], 1: [1], 1000: [300, 300, 300, 100]}[rows]
    assert all(part.type == pa.string() for part in parts)


@pytest.mark.parametrize(
    "read",
    [
        lambda shards: list(shards.parts("texts", 1, "id")),
        lambda shards: list(shards.batches("texts", 1, ["id"], 10)),
        lambda shards: shards.whole("texts", 1),
    ],
    ids=["parts", "batches", "whole"],
)
def test_a_table_of_other_bytes_or_without_a_marker_is_an_error_and_made_anew(
    shards: ShardedFolder, read: Callable[[ShardedFolder], Any]
) -> None:
    shards.write(1, {"texts": table(1)}, 0, {}, whole=["texts"])
    read(shards)
    path = shards.table("texts", 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert sorted(shards.done()) == [0, 1, 2], "size and footer are right"
    with pytest.raises(UserError, match=r"shard-00001\.parquet.* is damaged .*this shard is made anew"):
        read(shards)
    assert sorted(shards.done()) == [0, 2]
    with pytest.raises(UserError, match=r"^shard 1 of .* is missing or was made by another run; run again"):
        read(shards)


def test_a_table_of_an_earlier_release_without_a_digest_is_one_clear_error(shards: ShardedFolder) -> None:
    marker = shards.read_marker(1)
    assert marker is not None
    files = {name: {key: stated[key] for key in ("bytes", "rows")} for name, stated in marker.files.items()}
    content = {**asdict(marker), "files": files}
    shards.marker_path(1).write_json({**content, "digest": _digest(content)})
    with pytest.raises(UserError, match=r"shard-00001\.parquet.* was written by an earlier release .*; run again"):
        shards.whole("texts", 1)


def test_columns_that_are_remembered_are_read_once(shards: ShardedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str] | None] = []
    of_file = StoragePath.read_table
    monkeypatch.setattr(
        StoragePath, "read_table", lambda path, columns=None: read.append(columns) or of_file(path, columns)
    )
    held = remembering(shards)
    assert held.read("texts", 1, ["x", "id"]).equals(shards.read("texts", 1, ["x", "id"]))
    assert held.read("texts", 2, ["id"]).equals(shards.read("texts", 2, ["id"]))
    read.clear()
    assert held.read("texts", 1, ["id"])["id"].to_pylist() == shards.read("texts", 1)["id"].to_pylist()
    assert read == [None], "only the shards that remember nothing were read"


def test_content_tells_numbers_apart_to_the_last_digit() -> None:
    x = np.array([0.1, np.nan], np.float32)
    tables = {"texts": pa.table({"reward": x, "id": ["a", "b"]})}
    same = {"texts": pa.table({"reward": x.copy(), "id": ["c", "d"]})}
    other = {"texts": pa.table({"reward": np.nextafter(x, np.float32(1)), "id": ["a", "b"]})}
    assert content_of(tables) == content_of(same) != content_of(other)


def test_lines_beside_the_tables_belong_to_the_shard(shards: ShardedFolder) -> None:
    path = shards.folder / "quarantine" / "shard-00001.jsonl"
    shards.write(1, {"texts": table(1)}, 0, {}, lines={"quarantine": ['{"row": 1}', '{"row": "é"}'], "other": []})
    assert path.read_bytes().decode() == '{"row": 1}\n{"row": "é"}\n'
    assert shards.done()[1].files["quarantine/shard-00001.jsonl"] == {"bytes": 25, "rows": 2}
    assert not (shards.folder / "other").sizes()
    path.write_bytes(b'{"row": 1}\n')
    assert sorted(shards.done()) == [0, 2]
    path.delete()
    assert sorted(shards.done()) == [0, 2]


def test_another_attempt_writes_the_same_bytes(shards: ShardedFolder) -> None:
    before = {name: (shards.folder / name).read_bytes() for name in shards.folder.sizes(recursive=True)}
    digest = shards.digest(shards.done())
    for shard in range(3):
        write(shards, shard)
    assert before == {name: (shards.folder / name).read_bytes() for name in shards.folder.sizes(recursive=True)}
    assert shards.digest(shards.done()) == digest
    shards.write(1, {"texts": table(1, 999)}, 1, {})
    assert shards.digest(shards.done()) != digest


def _cut(path: StoragePath) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_footer(path: StoragePath) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))


def _same_size(path: StoragePath) -> None:
    path.write_bytes(b"x" * len(path.read_bytes()))


@pytest.mark.parametrize("damage", [StoragePath.delete, _cut, _same_size, _flip_footer])
@pytest.mark.parametrize("name", ["texts", "pairs"])
def test_a_marker_without_its_whole_files_is_none(
    shards: ShardedFolder, name: str, damage: Callable[[StoragePath], None]
) -> None:
    damage(shards.table(name, 1))
    assert sorted(shards.done()) == [0, 2]
    write(shards, 1)
    assert sorted(shards.done()) == [0, 1, 2]


def test_files_without_a_marker_are_none(shards: ShardedFolder) -> None:
    shards.marker_path(1).delete()
    assert sorted(shards.done()) == [0, 2]


def test_files_of_another_run_are_none_though_they_fit_in_size(shards: ShardedFolder) -> None:
    other = ShardedFolder(shards.folder / "other", "b" * 64, 3)
    for shard in range(3):
        write(other, shard)
    sizes = [one.folder.sizes(recursive=True) for one in (shards, other)]
    assert sizes[0]["texts/shard-00001.parquet"] == sizes[1]["texts/shard-00001.parquet"], "the sizes tell nothing"
    shards.table("texts", 1).write_bytes(other.table("texts", 1).read_bytes())
    assert sorted(shards.done()) == [0, 2]
    shards.marker_path(2).write_bytes(other.marker_path(2).read_bytes())
    assert sorted(shards.done()) == [0]


def test_a_shard_in_the_place_of_another_is_none(shards: ShardedFolder) -> None:
    for path in (shards.marker_path, lambda shard: shards.table("texts", shard)):
        path(1).write_bytes(path(2).read_bytes())
    assert sorted(shards.done()) == [0, 2]


def test_the_same_shards_in_another_number_are_none(shards: ShardedFolder) -> None:
    assert ShardedFolder(shards.folder, shards.fingerprint, 4).done() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"text"',
        "{}",
        "\x00" * 100,
        '{"shard": 1}',
        "files=[]",
        "files={}",
        "files={'a': 1}",
    ],
)
def test_a_marker_of_rubbish_is_none(local: ShardedFolder, text: str) -> None:
    path = local.marker_path(1)
    if text.startswith("files="):
        value = {**path.read_json(), "files": json.loads(text.removeprefix("files=").replace("'", '"'))}
        text = json.dumps(value)
    path.write_bytes(text.encode())
    assert sorted(local.done()) == [0, 2]
    assert local.read_marker(1) is None


@pytest.mark.parametrize("part", ["shard", "inputs", "files", "ids_sum", "facts", "digest"])
def test_a_marker_that_lacks_a_part_is_none(local: ShardedFolder, part: str) -> None:
    path = local.marker_path(1)
    written = path.read_json()
    path.write_json({name: value for name, value in written.items() if name != part})
    assert sorted(local.done()) == [0, 2]


@pytest.mark.parametrize(("fact", "value"), [("texts", None), ("texts", 7), ("more", 1)])
def test_a_marker_whose_counts_a_hand_has_changed_is_none(local: ShardedFolder, fact: str, value: int | None) -> None:
    local.write(1, {"texts": pa.table({"text": ["a"]})}, 1, {"texts": 1, "seconds": 0.1})
    assert sorted(local.done()) == [0, 1, 2]
    path = local.marker_path(1)
    content = path.read_json()
    facts = content["facts"] | {fact: value}
    path.write_json(content | {"facts": {name: one for name, one in facts.items() if one is not None}})
    assert sorted(local.done()) == [0, 2]


def test_counts_come_back_as_json_has_them(local: ShardedFolder) -> None:
    facts = {"failed": [(1, "long")], "rows": {3: 0.1}, "none": None}
    local.write(1, {"texts": pa.table({"text": ["a"]})}, 1, facts)
    marker = local.read_marker(1)
    assert marker is not None
    assert marker.facts == {"failed": [[1, "long"]], "rows": {"3": 0.1}, "none": None}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_marker_that_is_no_file_is_none_and_never_waits(local: ShardedFolder, make: Callable[[Path], None]) -> None:
    path = local.marker_path(1).local
    path.unlink()
    make(path)
    assert sorted(local.done()) == [0, 2]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_table_that_is_no_file_is_none_and_never_waits(local: ShardedFolder, make: Callable[[Path], None]) -> None:
    path = local.table("texts", 1).local
    path.unlink()
    make(path)
    assert sorted(local.done()) == [0, 2]


def test_a_flipped_bit_in_a_page_is_an_error_and_the_next_run_mends_it(shards: ShardedFolder) -> None:
    path = shards.table("texts", 1)
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(bytes(data))
    assert sorted(shards.done()) == [0, 1, 2], "size and footer do not show it"
    with pytest.raises(UserError, match=r"shard-00001\.parquet.* is damaged .*CRC.*; run again"):
        shards.read("texts", 1)
    assert sorted(shards.done()) == [0, 2]


def test_a_table_that_is_gone_is_an_error(shards: ShardedFolder) -> None:
    shards.table("texts", 1).delete()
    with pytest.raises(UserError, match=r"shard-00001\.parquet.* is damaged"):
        shards.read("texts", 1)


def test_a_storage_that_does_not_answer_is_no_damage(local: ShardedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for damage, an outage of a minute would do the work of days again."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("Input/output error")

    for method in ("read_bytes", "open_parquet"):
        with monkeypatch.context() as patch:
            patch.setattr(StoragePath, "read_bytes", fail)
            patch.setattr(StoragePath, method, fail)
            with pytest.raises(OSError, match="Input/output error"):
                local.done()
    with monkeypatch.context() as patch:
        patch.setattr(StoragePath, "read_bytes", fail)
        patch.setattr(StoragePath, "open_parquet", fail)
        with pytest.raises(OSError, match="Input/output error"):
            local.read("texts", 1)
    assert sorted(local.done()) == [0, 1, 2]


def test_rounds_do_what_is_missing_and_no_more(shards: ShardedFolder) -> None:
    shards.table("texts", 2).delete()
    shards.marker_path(0).delete()
    asked, notes = [], []

    def attempt(missing: Sequence[int]) -> list[Outcome]:
        asked.append(list(missing))
        for shard in missing:
            write(shards, shard)
        return [Outcome(shard) for shard in missing]

    assert sorted(run_rounds(shards, attempt, notes.append)) == [0, 1, 2]
    assert sorted(run_rounds(shards, attempt, notes.append)) == [0, 1, 2]
    assert (asked, notes) == ([[0, 2]], [])


def test_what_fails_is_tried_three_times_and_told(local: ShardedFolder) -> None:
    for shard in (0, 1, 2):
        local.marker_path(shard).delete()
    asked: list[list[int]] = []
    notes: list[str] = []

    def attempt(missing: Sequence[int]) -> list[Outcome]:
        """Shard 0 succeeds at the second try, shard 1 never, shard 2 says that it is done and has written nothing."""
        asked.append(list(missing))
        if len(asked) == 2:
            write(local, 0)
        return [Outcome(0, None if len(asked) == 2 else "full disk"), Outcome(1, "bad row"), Outcome(2)]

    with pytest.raises(ShardsFailedError) as caught:
        run_rounds(local, attempt, notes.append)
    assert asked == [[0, 1, 2], [0, 1, 2], [1, 2]]
    assert caught.value.failed == {1: "bad row", 2: "its files are not whole"}
    assert str(caught.value).startswith("2 shards failed 3 times: shard 1: bad row; shard 2")
    assert notes == [
        "3 shards are tried again (2 of 3): full disk",
        "2 shards are tried again (3 of 3): bad row",
    ]


def test_a_shard_that_nobody_mentions_lost_its_worker(local: ShardedFolder) -> None:
    local.marker_path(1).delete()
    with pytest.raises(ShardsFailedError, match="1 shards failed 2 times: shard 1: its worker was lost"):
        run_rounds(local, lambda missing: [], lambda text: None, rounds=2)


def test_a_users_mistake_ends_the_rounds(local: ShardedFolder) -> None:
    local.marker_path(1).delete()

    def attempt(missing: Sequence[int]) -> list[Outcome]:
        raise UserError("mend it")

    with pytest.raises(UserError, match="mend it"):
        run_rounds(local, attempt, lambda text: None)


def test_reasons_are_one_line() -> None:
    assert error_text(ValueError("a\n  b")) == "ValueError: a b"
    assert error_text(KeyError()) == "KeyError"
    assert len(error_text(ValueError("x" * 1000))) < 320


HANG = """
import ctypes, sys
from pdray.shards import deadline
with deadline(60), deadline(float(sys.argv[1])):
    pass
with deadline(float(sys.argv[1])):
    # A mutex of the C library that is locked twice hangs without Python's lock being given back.
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""


def test_a_deadline_ends_a_process_that_hangs_in_native_code() -> None:
    done = subprocess.run([sys.executable, "-c", HANG, "0.5"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Timeout (0:00:00" in done.stderr
    assert "line 10 in <module>" in done.stderr


def test_a_deadline_that_is_kept_does_nothing() -> None:
    code = "import time; from pdray.shards import deadline\nwith deadline(0.3): pass\ntime.sleep(0.6); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_deadlines_of_several_threads() -> None:
    """A process has one watchdog: the first deadline counts, and one that was kept takes none of the others away."""
    code = (
        "import threading, time; from pdray.shards import deadline\n"
        "def hang():\n"
        "    with deadline(0.8): time.sleep(60)\n"
        "threading.Thread(target=hang, daemon=True).start()\n"
        "for _ in range(3):\n"
        "    with deadline(60): time.sleep(0.1)\n"
        "time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, "Timeout" in done.stderr) == (1, True)
