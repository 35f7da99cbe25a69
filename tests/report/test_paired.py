"""How much better the second of two policies is on the same pairs and prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.report.page import render_two
from pdray.report.paired import differences
from pdray.report.run import RunView, read_run
from pdray.report.tables import UnreadableError
from tests.report.cases import make_run
from tests.report.test_page import Page

RIGHT = np.array([0.0, 1.0] * 20)


def evaluated(root: Path, right: np.ndarray, values: list[float | None], baseline: str = "b") -> RunView:
    """A run whose policy was right on some held-out pairs, two to a prompt, and whose answers were judged so."""
    folder = make_run(root, 24).run
    (evaluation,) = Path(str(folder)).glob("evaluation-*")
    hashes = pa.array(np.arange(len(right)) // 2, pa.uint64())
    held_out = pa.table({"prompt_hash": hashes, "aspect": ["honesty"] * len(right), "right": right})
    prompts = [f"prompt {number}" for number in range(len(values))]
    compared = {"prompt": prompts, "set": [None] * len(values), "answer.baseline": [baseline] * len(values)}
    judged = pa.table(compared | {"value.gpt": pa.array(values, pa.float64())})
    root_of = read_run(str(folder))["evaluation"].folder
    assert root_of is not None and root_of.name == evaluation.name
    (root_of / "pairs.parquet").write_table(held_out)
    (root_of / "comparisons.parquet").write_table(judged)
    return read_run(str(folder))


def test_both_values_of_a_prompt_are_drawn_together(tmp_path: Path) -> None:
    better = np.where(np.arange(40) % 4 == 0, 1.0, RIGHT)  # a pair of every other prompt, and nothing is lost
    runs = (
        evaluated(tmp_path / "one", RIGHT, [0.0, 0.5, 1.0, None, 0.0] * 6),
        evaluated(tmp_path / "other", better, [1.0, 0.5, 1.0, 1.0, None] * 6),
    )
    right, judged = differences(runs)
    assert (right.name, right.found.mean, right.found.pairs) == ("held-out pairs right", 0.25, 40)
    assert 0.1 < right.found.low < 0.25 < right.found.high < 0.4
    assert right.better == "second run"
    assert (judged.name, judged.found.mean, judged.found.pairs) == ("win rate by gpt", pytest.approx(1 / 3), 18)
    assert differences(runs[::-1])[0].better == "first run"
    assert [one.better for one in differences((runs[0], runs[0]))] == ["cannot be told"] * 2
    words = Page(render_two(*runs)).words
    assert "held-out pairs right 40 25.0%" in words
    assert "Which policy is better" in words


def test_what_was_not_asked_alike_is_left_out(tmp_path: Path) -> None:
    one, fewer = evaluated(tmp_path / "one", RIGHT, [1.0] * 6), evaluated(tmp_path / "fewer", RIGHT[:20], [1.0] * 6)
    other = evaluated(tmp_path / "other", RIGHT, [1.0] * 6, baseline="c")
    assert [found.name for found in differences((one, fewer))] == ["win rate by gpt"]
    assert [found.name for found in differences((one, other))] == ["held-out pairs right"]
    bare = read_run(str(make_run(tmp_path / "bare", 24).run))
    assert differences((one, bare)) == []
    assert "Which policy is better" not in Page(render_two(one, bare)).words


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "one", RIGHT, [1.0] * 6)
    folder = run["evaluation"].folder
    assert folder is not None
    (folder / "comparisons.parquet").write_bytes(b"no table")
    with pytest.raises(UnreadableError, match=rf"{folder.name}/comparisons\.parquet cannot be read"):
        differences((run, run))
