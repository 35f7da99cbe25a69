"""Held-out pairs from a file: both kinds of text, a seeded share, and a sentence for each that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.errors import UserError
from pdray.evaluation.pairs import read_pairs

ROWS = [{"prompt": f"p{row}", "chosen": f"c{row}", "rejected": f"r{row}", "aspect": "x"} for row in range(10)]


def jsonl(folder: Path, rows: list[Any]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_strings_of_jsonl_and_parquet_are_the_same_pairs(tmp_path: Path) -> None:
    pairs, rows = read_pairs(jsonl(tmp_path, ROWS), 100, 0)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "pairs.parquet")
    assert (pairs.to_pylist(), rows) == (ROWS, 10)
    assert read_pairs(str(tmp_path / "pairs.parquet"), 100, 0)[0].equals(pairs)


def test_messages_stay_messages_and_an_aspect_is_not_needed(tmp_path: Path) -> None:
    def say(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    row = {"prompt": say("user", "p"), "chosen": say("assistant", "c"), "rejected": say("assistant", "r")}
    pairs, _ = read_pairs(jsonl(tmp_path, [row]), 100, 0)
    assert pairs.to_pylist() == [row | {"aspect": None}]


def test_the_seed_chooses_and_the_order_is_that_of_the_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path, ROWS)
    some = [read_pairs(path, 4, seed)[0]["prompt"].to_pylist() for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert some[0] == sorted(some[0])
    assert len(some[0]) == 4


def test_rows_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs, rows = read_pairs(jsonl(tmp_path, [*ROWS, {"prompt": "p", "chosen": "c"}]), 100, 0)
    assert (len(pairs), rows) == (10, 11)


def test_what_columns_hold_that_nobody_reads_is_of_no_account(tmp_path: Path) -> None:
    odd = [row | {"meta": meta} for row, meta in zip(ROWS, [1, "N/A", None, [1, "x"], {"a": 1}] * 2, strict=True)]
    assert read_pairs(jsonl(tmp_path, odd), 100, 0)[0].to_pylist() == ROWS


def test_a_file_that_the_driver_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path, ROWS)
    monkeypatch.setattr("pdray.evaluation.files.MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"the driver reads it whole.* at most 1 GiB"):
        read_pairs(path, 100, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.csv", "prompt,chosen,rejected\n", "ends neither with .jsonl nor with .parquet"),
        ("pairs.jsonl", '{"prompt": "p", "chosen": "c"}\n', "has no column rejected but prompt, chosen"),
        ("pairs.jsonl", '{"prompt": 1, "chosen": "c", "rejected": "r"}\n', "the column prompt of .* something else"),
        (
            "pairs.jsonl",
            '{"prompt": "p", "chosen": [{"role": "assistant", "content": "c"}], "rejected": "r"}\n',
            "strings in some of its columns and messages in others",
        ),
        ("pairs.jsonl", '{"prompt": null, "chosen": null, "rejected": null}\n', "holds no pair"),
        ("pairs.jsonl", '{"prompt": "p", "chosen": "c", "rejected": "r", "aspect": [1]}\n', "column aspect of"),
        ("pairs.jsonl", '{"prompt": "p", "chosen": "c", "rejected": "r"}\n\n{broken\n', r"line 3: not JSON"),
        ("pairs.jsonl", "", r"cannot be read \(it is empty\)"),
        ("pairs.parquet", "PAR1", "cannot be read"),
    ],
)
def test_what_is_no_file_of_pairs_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        read_pairs(str(tmp_path / name), 100, 0)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)
