"""Balanced sampling and the length penalty against cases computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdray.margins import final_margin
from pdray.proxies import length
from pdray.proxies.quality import rank_correlation

IDS = [f"pair-{index:03}" for index in range(100)]


@pytest.mark.parametrize(
    ("fraction", "temperature", "share"),
    [
        (0.5, 1.0, 0.5),
        (0.7, 1.0, math.exp(0.7) / (math.exp(0.7) + math.exp(0.3))),  # 0.5987
        (0.7, 0.5, math.exp(1.4) / (math.exp(1.4) + math.exp(0.6))),  # 0.6900
        (0.2, 0.1, math.exp(2) / (math.exp(2) + math.exp(8))),
        (0.9, 1e-6, 1.0),
        (0.1, 1e-6, 0.0),
    ],
)
def test_balanced_share(fraction: float, temperature: float, share: float) -> None:
    assert length.balanced_share(fraction, temperature) == pytest.approx(share, abs=1e-12)


def test_draw_takes_each_side_by_its_share() -> None:
    difference = np.where(np.arange(100) < 70, 5, -5)  # f+ = 0.7: 59.87% of 50 draws are 30
    drawn = length.draw(IDS, difference, 50, 1.0, seed=0)
    assert (difference[drawn] >= 0).sum() == 30
    assert len(set(drawn)) == 50


def test_draw_repeats_a_small_side_evenly() -> None:
    difference = np.where(np.arange(100) < 90, 5, -5)  # a large τ asks for 50 of the 10 short ones
    drawn = length.draw(IDS, difference, 100, 1e6, seed=0)
    counts = np.bincount(drawn, minlength=100)
    assert set(counts[90:]) == {5}
    assert set(counts[:90]) == {0, 1}


def test_equal_lengths_count_as_longer() -> None:
    difference = np.array([0] * 50 + [-1] * 50)
    drawn = length.draw(IDS, difference, 10, 1e-6, seed=0)  # f+ = 0.5: half each even at a small τ
    assert (difference[drawn] == 0).sum() == 5


def test_one_empty_side_leaves_all_draws_to_the_other() -> None:
    assert sorted(length.draw(IDS, np.ones(100), 100, 1.0, seed=0)) == list(range(100))


def test_without_temperature_every_pair_is_drawn_alike() -> None:
    difference = np.where(np.arange(100) < 90, 5, -5)
    assert sorted(length.draw(IDS, difference, 100, None, seed=0)) == list(range(100))


def test_draw_depends_on_ids_and_seed_not_on_row_order() -> None:
    difference = np.where(np.arange(100) % 3 == 0, -5, 5)
    shuffle = np.random.default_rng(1).permutation(100)
    shuffled = [IDS[index] for index in shuffle]
    first = [IDS[index] for index in length.draw(IDS, difference, 40, 1.0, seed=0)]
    assert [shuffled[index] for index in length.draw(shuffled, difference[shuffle], 40, 1.0, seed=0)] == first
    assert [IDS[index] for index in length.draw(IDS, difference, 40, 1.0, seed=1)] != first


def test_margins_of_both_forms() -> None:
    difference = np.array([100, -50, 0])
    assert length.training_margin(difference, 0.01, "eq16").tolist() == [1.0, -0.5, 0.0]
    assert length.training_margin(difference, 0.01, "residual").tolist() == [-1.0, 0.5, 0.0]
    assert length.scoring_penalty(0.01, "eq16") == 0.01
    assert length.scoring_penalty(0.01, "residual") == 0.0


def test_final_margin_subtracts_the_penalty() -> None:
    margin = final_margin(np.array([2.0, 0.1, 0.3]), np.array([100, 50, -20]), 0.01)
    np.testing.assert_allclose(margin, [1.0, -0.4, 0.5])  # eq. 17


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 60), slope=st.floats(-2, 2))
def test_the_penalty_that_makes_margins_independent_of_length(seed: int, count: int, slope: float) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(-30, 31, count)
    margins = slope * lengths + rng.normal(size=count)
    penalty = length.uncorrelated_penalty(lengths, margins)
    if np.ptp(lengths) == 0:
        assert penalty == 0.0
        return
    step = 1e-6

    def correlation(rho: float) -> float:
        return rank_correlation(lengths, margins - rho * lengths) or 0.0

    assert correlation(penalty - step) >= 0 >= correlation(penalty + step)
    assert -5 - abs(slope) * 60 < penalty < 5 + abs(slope) * 60


def test_the_penalty_of_a_known_slope() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(-50, 51, 4000)
    for slope in (0.03, -0.01):
        penalty = length.uncorrelated_penalty(lengths, slope * lengths + rng.logistic(size=4000))
        assert penalty == pytest.approx(slope, abs=0.002)


def test_without_differences_there_is_no_penalty() -> None:
    assert length.uncorrelated_penalty(np.zeros(5), np.arange(5.0)) == 0.0
    assert length.uncorrelated_penalty(np.arange(5), np.ones(5)) == 0.0
    assert length.uncorrelated_penalty(np.array([3]), np.array([1.0])) == 0.0
