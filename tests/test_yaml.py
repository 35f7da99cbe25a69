"""YAML that would grow without end, take minutes or lose a value without a word."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pdray.config import load_config
from pdray.config.text import parse_yaml
from pdray.errors import UserError


def bomb(line: str, levels: int = 9) -> str:
    """Each level refers to the one before ten times."""
    return "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {line.format(', '.join([f'*a{i - 1}'] * 10))}\n" for i in range(1, levels)
    )


@pytest.mark.parametrize(
    "text",
    [
        bomb("{{<<: [{}]}}"),
        bomb("[{}]"),
        bomb("{{? {{<<: [{}]}} : 1}}"),
        "a: &a {<<: *a}",
        "a: &a {b: [{<<: *a}]}",
    ],
)
def test_references_that_grow_without_end_are_refused(text: str) -> None:
    start = time.process_time()
    with pytest.raises(
        ValueError, match="stands for more than 100,000 values, those behind references too; shorten it"
    ):
        parse_yaml(text)
    assert time.process_time() - start < 10


def test_many_keys_are_read_in_time_and_one_of_them_twice_is_told() -> None:
    text = "x:\n" + "".join(f"  k{i}: 1\n" for i in range(20_000))
    start = time.process_time()
    assert len(parse_yaml(text)["x"]) == 20_000
    with pytest.raises(ValueError, match="the key 'k7' stands there twice"):
        parse_yaml(text + "  k7: 2\n")
    assert time.process_time() - start < 60


def test_a_text_of_a_data_set_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is longer than 1 MiB"):
        parse_yaml("#" * 2**20 + "x")
    (tmp_path / "run.yaml").write_text('{"prompt": "q"}\n' * 80_000)
    with pytest.raises(UserError, match=r"run.yaml is not readable YAML: it is longer than 1 MiB"):
        load_config(tmp_path / "run.yaml")


def test_a_mapping_that_is_merged_above_its_own_place_holds_no_key_twice() -> None:
    text = "d: &d {y: 1}\nx:\n  b: &b {<<: *d, y: 2}\nc: {<<: *b, z: 3}\n"
    assert parse_yaml(text) == {"d": {"y": 1}, "x": {"b": {"y": 2}}, "c": {"y": 2, "z": 3}}
