"""What judges say of the answers, as tables and figures: which side is which, ties, failures, several judges, sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdray.config import EvaluationConfig
from pdray.engines.vllm_generation import Answer
from pdray.errors import UserError
from pdray.evaluation import comparison
from pdray.evaluation.comparison import Comparison, compare
from pdray.evaluation.endpoint_judge import Verdicts
from pdray.evaluation.stage import STAGE
from pdray.evaluation.winrate import length_controlled
from tests.stages import context

# What the policy and the baseline say, and what the reward model gives to both.
ANSWERS = [
    ("a fine one", "poor", 3.0, 1.0),
    ("the same", "the same", 2.0, 2.0),
    ("no", "a long and careful one", -1.0, 0.5),
    ("odd", "even", np.nan, 0.0),
    ("silent", "quiet", 1.0, 0.0),
    ("flips", "flops", 1.0, 0.0),
]
SETS = ["koala", "koala", "vicuna", "vicuna", "vicuna", None]
PROMPTS = pa.table({"prompt": [f"p{row}" for row in range(6)], "set": SETS})
SAID: list[Any] = [("A", "B"), ("tie", "tie"), ("B", "A"), ("A", "B"), (None, "B"), ("A", "A")]
REASONS = Counter({"status 500": 1, "no answer in time": 3})
COUNTS = ("wins", "ties", "losses", "failed", "inconsistent")


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for policies and judges, and what they were asked."""
    asked: dict[str, Any] = {}

    def generate(ctx: Any, folders: dict[str, str], texts: list[str], load: Any) -> dict[str, list[Answer]]:
        sides = zip(*[row[:2] for row in ANSWERS], strict=True)
        return {
            name: [Answer(text, len(text), text == "no") for text in side]
            for name, side in zip(folders, sides, strict=True)
        }

    def rewards(ctx: Any, name: str, model: Any, prompts: list[str], answers: list[str]) -> np.ndarray:
        side = 2 + (answers[0] == "poor")
        return np.array([row[side] for row in ANSWERS]) + 1e-6 * side  # padded beside others

    def ask_all(ctx: Any, name: str, judge: Any, comparisons: list[Any], max_failed: float) -> Verdicts:
        asked[name] = comparisons, max_failed
        return Verdicts(asked.get("said", SAID), REASONS, 12)

    for name, stand_in in (("generate", generate), ("rewards", rewards), ("ask_all", ask_all)):
        monkeypatch.setattr(comparison, name, stand_in)
    return asked


def compared(root: Path, rm: bool = True, gpt: bool = True) -> Comparison:
    section = {
        "pairs": "x",
        "generation": {"max_tokens": 8},
        "max_failed": 0.25,
        "reward_models": {"rm": {"path": "rm"}} if rm else {},
        "endpoints": {"gpt": {"url": "http://x", "model": "m"}} if gpt else {},
    }
    ctx = context(STAGE, root, evaluation=EvaluationConfig.model_validate(section))
    return compare(ctx, PROMPTS, {"policy": "p", "baseline": "b"}, lambda *words: None)  # type: ignore[arg-type,return-value]


def test_every_judge_compares_the_policy_with_the_baseline(tmp_path: Path, judges: dict[str, Any]) -> None:
    table = compared(tmp_path).table
    asked, most = judges["gpt"]
    assert (asked[0], len(asked), most) == (("p0", "a fine one", "poor"), 6, 0.25)
    assert table["answer.policy"].to_pylist() == [row[0] for row in ANSWERS]
    assert table["tokens.baseline"].to_pylist() == [len(row[1]) for row in ANSWERS]
    assert table["value.rm"].to_pylist() == [1.0, 0.5, 0.0, None, 1.0, 1.0]  # the same answers tie
    assert table["value.gpt"].to_pylist() == [1.0, 0.5, 0.0, 1.0, None, 0.5]
    assert table["value.mean"].to_pylist() == [1.0, 0.5, 0.0, None, None, 0.75]  # of both judges, or of none


def test_figures_count_what_came_and_what_did_not(tmp_path: Path, judges: dict[str, Any]) -> None:
    found = compared(tmp_path)
    rates = found.metrics["win_rates"]
    assert [rates["gpt"][name] for name in COUNTS] == [2, 2, 1, 1, 1]
    assert [rates["rm"][name] for name in COUNTS] == [3, 1, 1, 1, 0]
    assert [rates["mean"][name] for name in COUNTS] == [2, 1, 1, 2, 0]
    assert (rates["gpt"]["mean"], rates["gpt"]["pairs"]) == (0.6, 5)
    assert {name: one["mean"] for name, one in rates["gpt"]["sets"].items()} == {
        "(no set)": 0.5, "koala": 0.75, "vicuna": 0.5,
    }  # fmt: skip
    assert rates["gpt"]["average_win_score"]["mean"] == round((1 + 1.5 + 1) / 3, 6)
    lengths = np.array([len(one) - len(other) for one, other, *_ in ANSWERS], float)[[0, 1, 2, 3, 5]]
    controlled = length_controlled(np.array([1, 0.5, 0, 1, 0.5]), lengths, 0)
    assert rates["gpt"]["length_controlled"]["mean"] == round(controlled.mean, 6) != rates["gpt"]["mean"]
    assert found.metrics["answers"] == {
        "prompts": 6, "policy_tokens": 5.7, "policy_cut": 1, "baseline_tokens": 8.0, "baseline_cut": 0,
    }  # fmt: skip
    assert found.notes == [
        "1 of 6 answers of the policy end at evaluation.generation.max_tokens",
        "1 of 6 comparisons have no verdict of rm and are left out (rewards that are not finite)",
        "1 of 6 comparisons have no verdict of gpt and are left out (3 × no answer in time; 1 × status 500)",
    ]


def test_one_judge_has_no_mean_and_one_without_a_verdict_ends_the_run(tmp_path: Path, judges: dict[str, Any]) -> None:
    assert list(compared(tmp_path, gpt=False).metrics["win_rates"]) == ["rm"]
    judges["said"] = [(None, "A")] * 6
    with pytest.raises(UserError, match=r"no comparison has a value by the judge gpt \(3 × no answer in time; 1 ×"):
        compared(tmp_path, rm=False)


def test_sets_are_told_where_there_are_several() -> None:
    judged = comparison.Judged(np.array([1.0, 0.0]))
    assert set(comparison.figures(judged, np.zeros(2), ["a", "b"], 0)["sets"]) == {"a", "b"}
    assert "sets" not in comparison.figures(judged, np.zeros(2), [None, None], 0)
