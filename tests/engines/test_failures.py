"""Texts that an engine cannot score, found by halving."""

from __future__ import annotations

import numpy as np
import pytest

from pdray.engines.engine import Rewards
from pdray.engines.failures import TooManyFailedError, as_matrix, find_killers, score_around
from pdray.errors import UserError


def scorer(bad: set[int], calls: list[list[int]]):
    def score(texts: list[int]) -> Rewards:
        calls.append(texts)
        if bad & set(texts):
            raise RuntimeError(f"cannot read {min(bad & set(texts))}")
        return np.array([[text, -text] for text in texts], np.float32)

    return score


@pytest.mark.parametrize("bad", [set(), {0}, {99}, {3, 4, 70}, {17}])
def test_every_text_but_the_bad_ones_has_its_reward(bad: set[int]) -> None:
    calls: list[list[int]] = []
    rewards, failed = score_around(scorer(bad, calls), list(range(100)), most=3)
    assert set(failed) == bad
    assert all(f"cannot read {text}" in reason for text, reason in failed.items())
    matrix = as_matrix(rewards, 100, 2)
    good = [text for text in range(100) if text not in bad]
    np.testing.assert_array_equal(matrix[good, 0], good)
    assert np.isnan(matrix[sorted(bad)]).all()
    assert len(calls) <= 1 + 2 * 7 * len(bad)


def test_an_engine_that_raises_for_everything_is_given_up_soon() -> None:
    calls: list[list[int]] = []
    with pytest.raises(TooManyFailedError, match="more than 2 texts cannot be scored: RuntimeError: cannot read"):
        score_around(scorer(set(range(4096)), calls), list(range(4096)), most=2)
    assert len(calls) < 30


def test_what_the_user_can_mend_is_not_halved() -> None:
    calls: list[list[int]] = []

    def score(texts: list[int]) -> Rewards:
        calls.append(texts)
        raise UserError("no chat template")

    with pytest.raises(UserError, match="no chat template"):
        score_around(score, [1, 2, 3], most=9)
    assert calls == [[1, 2, 3]]


@pytest.mark.parametrize("killers", [set(), {0}, {999}, {3, 500, 501}])
def test_killers_are_found_by_halves(killers: set[int]) -> None:
    probes: list[tuple[int, int]] = []

    def survives(start: int, stop: int) -> bool:
        probes.append((start, stop))
        return not killers & set(range(start, stop))

    assert find_killers(survives, 1000, most=3) == sorted(killers)
    assert len(probes) <= 1 + 20 * len(killers)


def test_more_killers_than_allowed_are_not_all_looked_for() -> None:
    with pytest.raises(TooManyFailedError, match="more than 1 texts take their process down"):
        find_killers(lambda start, stop: False, 1000, most=1)
