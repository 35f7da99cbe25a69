"""Win rates: both orders, ties, failures, length control beside a fit by another library, the average win score."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from pdray.evaluation.winrate import (
    RIDGE,
    Verdict,
    average_win_score,
    length_controlled,
    value_of,
    values_of_rewards,
    win_rate,
)


@pytest.mark.parametrize(
    ("policy_first", "baseline_first", "value", "flipped"),
    [
        ("A", "B", 1.0, False),
        ("B", "A", 0.0, False),
        ("tie", "tie", 0.5, False),
        ("A", "A", 0.5, True),
        ("B", "B", 0.5, True),
        ("A", "tie", 0.5, True),
        ("tie", "A", 0.5, True),
    ],
)
def test_an_answer_wins_where_it_wins_in_both_orders(
    policy_first: Verdict, baseline_first: Verdict, value: float, flipped: bool
) -> None:
    assert value_of(policy_first, baseline_first) == (value, flipped)


@pytest.mark.parametrize("verdicts", [(None, "A"), ("B", None), (None, None)])
def test_half_a_comparison_is_none(verdicts: tuple[Verdict | None, Verdict | None]) -> None:
    value, flipped = value_of(*verdicts)
    assert np.isnan(value) and not flipped


def test_the_larger_reward_wins_and_what_is_not_finite_fails() -> None:
    policy, baseline = [2.0, -1.0, 0.5, np.nan, np.inf, 1.0], [1.0, 3.0, 0.5, 0.0, np.inf, np.inf]
    values = values_of_rewards(np.array(policy), np.array(baseline))
    assert values[:3].tolist() == [1.0, 0.0, 0.5]
    assert np.isnan(values[3:]).all()


def test_ties_are_half_a_win() -> None:
    found = win_rate(np.array([1.0, 0.5, 0.5, 0.0, 1.0, 1.0]), 0)
    assert (found.mean, found.pairs) == (pytest.approx(4 / 6), 6)
    assert found.low < 4 / 6 < found.high


def drawn(effect: float, advantage: float, count: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Comparisons whose chance depends on length, and how much longer the policy's answers are."""
    rng = np.random.default_rng(1)
    longer = np.round(rng.normal(60, 100, count))
    logit = advantage + effect * np.tanh(longer / longer.std(ddof=1))
    values = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(float)
    values[::10] = 0.5
    return values, longer


def test_where_length_says_nothing_the_rate_is_the_raw_one() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.5, 0.5])
    for longer in (np.zeros(6), np.array([-30.0, 0, 30, 0, 20, -20])):  # of one length; uncorrelated with the values
        assert length_controlled(values, longer, 0).mean == pytest.approx(values.mean(), abs=1e-9)


def test_its_interval_is_then_that_of_the_raw_rate() -> None:
    values, _ = drawn(effect=0.0, advantage=0.3, count=300)
    raw, controlled = win_rate(values, 4), length_controlled(values, np.zeros(300), 4)
    assert (controlled.low, controlled.high) == (pytest.approx(raw.low, abs=1e-9), pytest.approx(raw.high, abs=1e-9))


def test_it_takes_out_what_length_brought() -> None:
    values, longer = drawn(effect=1.5, advantage=0.0)
    raw, controlled = win_rate(values, 0), length_controlled(values, longer, 0)
    assert raw.low > 0.55
    assert controlled.low < 0.5 < controlled.high
    assert controlled.low < controlled.mean < controlled.high


@pytest.mark.parametrize("count", [12, 800])
def test_the_fit_is_that_of_another_optimiser(count: int) -> None:
    from scipy.optimize import minimize

    values, longer = drawn(1.0, 0.4, count)
    x = np.tanh(longer / longer.std(ddof=1))

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] + parameters[1] * x
        return float(np.sum(np.logaddexp(0, logits) - values * logits) + RIDGE / 2 * parameters[1] ** 2)

    constant = minimize(loss, np.zeros(2), tol=1e-10).x[0]
    assert length_controlled(values, longer, 0).mean == pytest.approx(1 / (1 + np.exp(-constant)), abs=1e-6)


def test_length_that_decides_everything_and_wins_without_a_loss_stay_finite() -> None:
    longer = np.array([-50.0, -40, -30, 30, 40, 50])
    found = length_controlled((longer > 0).astype(float), longer, 0)
    assert found.mean == pytest.approx(0.5, abs=1e-6)
    assert np.isfinite([found.low, found.high]).all()
    assert length_controlled(np.ones(4), longer[:4], 0).mean == 1.0
    assert length_controlled(np.array([0.5]), np.array([3.0]), 0).mean == pytest.approx(0.5)


def test_a_fit_of_few_losses_does_not_leap_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One percent of 20,000 answers loses, the shortest; whole steps of Newton's method end at a rate of 1."""
    monkeypatch.setattr("pdray.evaluation.winrate.RESAMPLES", 1)
    longer = np.round(np.random.default_rng(0).standard_t(1.2, 20_000) * 100)
    found = length_controlled((longer >= np.quantile(longer, 0.01)).astype(float), longer, 0)
    assert 0.999 < found.mean < 0.9999


def test_the_average_win_score_weighs_sets_alike() -> None:
    draw, lost = np.full(10, 0.5), np.array([1.0, 0.0, 0.0, 0.0])
    assert astuple(average_win_score({"ova": draw}, 0)) == (1.0, 1.0, 1.0, 10)
    found = average_win_score({"large": draw, "small": lost}, 0)
    assert found.mean == pytest.approx((1.0 + (1 + (1 - 3) / 4)) / 2)
    assert (found.low, found.high) == (0.5, 1.25), "of 0 to 3 wins among four draws"


def test_the_interval_of_the_average_win_score_is_that_of_the_win_rate_where_there_is_one_set() -> None:
    values = np.random.default_rng(1).choice([0.0, 0.5, 1.0], 300, p=[0.3, 0.1, 0.6])
    score, rate = average_win_score({"": values}, 0), win_rate(values, 0)
    assert (score.low / 2, score.high / 2) == pytest.approx((rate.low, rate.high), abs=0.01)
    halves = average_win_score({"one": values[:150], "other": values[150:]}, 0)
    assert halves.high - halves.low == pytest.approx(score.high - score.low, rel=0.1)
