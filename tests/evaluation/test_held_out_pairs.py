"""Held-out pairs from a file: both kinds of text, a seeded share, and a sentence for each that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.errors import UserError
from pdray.evaluation.pairs import BEYOND, read_pairs

ROWS = [{"prompt": f"p{row}", "chosen": f"c{row}", "rejected": f"r{row}", "aspect": "x"} for row in range(10)]


def jsonl(folder: Path, rows: list[Any]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_strings_of_jsonl_and_parquet_are_the_same_pairs(tmp_path: Path) -> None:
    pairs, left_out = read_pairs(jsonl(tmp_path, ROWS), 100, 0)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "pairs.parquet")
    assert (pairs.to_pylist(), left_out) == (ROWS, {BEYOND: 0})
    assert read_pairs(str(tmp_path / "pairs.parquet"), 100, 0)[0].equals(pairs)


def say(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def test_messages_stay_messages_and_an_aspect_is_not_needed(tmp_path: Path) -> None:
    row = {"prompt": say("user", "p"), "chosen": say("assistant", "c"), "rejected": say("assistant", "r")}
    pairs, _ = read_pairs(jsonl(tmp_path, [row]), 100, 0)
    assert pairs.to_pylist() == [row | {"aspect": None}]


@pytest.mark.parametrize("prompt", ["p", say("user", "p")])
def test_texts_are_read_as_those_of_the_corpus(tmp_path: Path, prompt: Any) -> None:
    """The turns that the responses repeat are taken off, and a prompt may be a string beside messages."""
    whole = {"chosen": say("user", "p") + say("assistant", "c"), "rejected": say("user", "p") + say("assistant", "r")}
    another = whole | {"chosen": say("user", "q") + say("assistant", "c")}
    pairs, left_out = read_pairs(jsonl(tmp_path, [{"prompt": prompt} | row for row in (whole, another)]), 100, 0)
    expected = {"prompt": say("user", "p"), "chosen": say("assistant", "c"), "rejected": say("assistant", "r")}
    assert pairs.to_pylist() == [expected | {"aspect": None}]
    assert left_out == {"begins with a turn of the user: chosen": 1, BEYOND: 0}


def test_the_seed_chooses_and_the_order_is_that_of_the_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path, ROWS)
    some = [read_pairs(path, 4, seed)[0]["prompt"].to_pylist() for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert some[0] == sorted(some[0])
    assert len(some[0]) == 4


def test_rows_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "p", "chosen": "c"}, {"prompt": "p", "chosen": " ", "rejected": "r"}]
    pairs, left_out = read_pairs(jsonl(tmp_path, rows), 7, 0)
    assert (len(pairs), left_out) == (7, {"missing field: rejected": 1, "empty field: chosen": 1, BEYOND: 3})


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
        ("pairs.jsonl", '{"prompt": 1, "chosen": "c", "rejected": "r"}\n', r"holds no pair \(1 not text: prompt\)"),
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
