"""Rewards by a judge: what decides them, how answers are read, and that none is computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdray.config import EvaluationConfig, RewardJudgeConfig
from pdray.evaluation import reward_judge
from pdray.evaluation.reward_judge import rewards, token_rule
from pdray.evaluation.stage import STAGE
from pdray.tokens import TokenRule
from tests.stages import context


def test_half_of_the_tokens_are_for_the_prompt_unless_told() -> None:
    assert token_rule(RewardJudgeConfig(path="x", max_tokens=64)) == TokenRule(64, 32)
    assert token_rule(RewardJudgeConfig(path="x", max_tokens=64, prompt_tokens=50)) == TokenRule(64, 50)


def test_rewards_are_computed_once_for_what_decides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run_tasks(function: Any, jobs: list[Any], *limits: Any) -> Iterator[tuple[int, np.ndarray]]:
        for number, (texts, *_) in reversed(list(enumerate(jobs))):  # the last may end first
            asked.append(texts)
            yield number, np.array([float(len(str(answer))) for _, answer in texts])

    monkeypatch.setattr(reward_judge, "run_tasks", run_tasks)
    monkeypatch.setattr(reward_judge, "TEXTS_PER_TASK", 2)
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "config.json").write_text("{}")
    ctx = context(STAGE, tmp_path, evaluation=EvaluationConfig(pairs="x"))

    def given(answers: list[str], prompts: list[Any] = ["p", "q", "r"], **settings: Any) -> list[float]:  # noqa: B006
        judge = RewardJudgeConfig.model_validate({"path": str(tmp_path / "rm")} | settings)
        return rewards(ctx, "rm", judge, prompts, answers).tolist()

    answers = ["a", "bb", "ccc"]
    assert given(answers) == given(answers) == [1.0, 2.0, 3.0]
    assert asked == [[("r", "ccc")], [("p", "a"), ("q", "bb")]]
    for count, settings in enumerate(({"max_tokens": 9}, {"prompt_tokens": 9}, {"dtype": "bfloat16"}), 2):
        given(answers, **settings)
        assert len(asked) == 2 * count, settings
    (tmp_path / "rm" / "config.json").write_text("other weights")
    given(answers)
    assert given(["a", "bb", "dddd"]) == [1.0, 2.0, 4.0]
    assert asked[8:] == [[("r", "ccc")], [("p", "a"), ("q", "bb")], [("r", "dddd")]]
    turns = [{"role": "user", "content": "hello"}]
    given(["hi"], [turns])
    assert asked[-1] == [(turns, [{"role": "assistant", "content": "hi"}])]
