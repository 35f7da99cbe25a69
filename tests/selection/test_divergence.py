"""PD against cases computed by hand from the equations."""

from __future__ import annotations

import numpy as np
import pytest

from pdray.selection.divergence import (
    num_kept,
    preference_divergence,
    quantile_rank,
    reward_margins,
    scale_margins,
)


def test_margin_subtracts_the_length_penalty():
    # 1.5 - 0.5 - 0.1 * (30 - 10) = -1 and 0 - 1 - 0.1 * (5 - 15) = 0
    rewards = np.array([0.5, 1.0, 1.5, 0.0], np.float32)
    margins = reward_margins(rewards, np.array([2, 3]), np.array([0, 1]), np.array([20, -10]), 0.1)
    np.testing.assert_allclose(margins, [-1.0, 0.0], atol=1e-7)
    assert margins.dtype == np.float32


def test_margin_of_a_text_that_was_not_scored_is_nan():
    rewards = np.array([np.nan, 1.0], np.float32)
    assert np.isnan(reward_margins(rewards, np.array([0]), np.array([1]), np.array([1]), 0.0)).all()


@pytest.mark.parametrize(
    ("gamma", "count", "rank"), [(0.5, 4, 2), (0.9, 10, 9), (0.9, 11, 10), (1.0, 7, 7), (0.01, 5, 1)]
)
def test_quantile_rank(gamma, count, rank):
    assert quantile_rank(gamma, count) == rank


def test_scaling_clips_at_the_quantile():
    np.testing.assert_array_equal(
        scale_margins(np.array([-4, -1, 0, 1, 2, 4], np.float32), 2.0), [-1, -0.5, 0, 0.5, 1, 1]
    )


def test_scaling_keeps_what_is_not_finite_out():
    assert np.isnan(scale_margins(np.array([np.nan, np.inf, -np.inf], np.float32), 2.0)).all()


def test_a_quantile_of_zero_leaves_signs():
    np.testing.assert_array_equal(scale_margins(np.array([-3, 0, 2], np.float32), 0.0), [-1, 0, 1])


def test_divergence_by_hand():
    # Three aspects; pair 0 is labelled by aspect 0: PD = -(0.5 + 1.0); pair 1 by aspect 2: PD = -(-1.0 + 0.25).
    scaled = np.array([[np.nan, 0.5, 1.0], [-1.0, 0.25, np.nan]])
    np.testing.assert_array_equal(preference_divergence(scaled, np.array([0, 2])), [-1.5, 0.75])


def test_divergence_lies_between_its_bounds():
    rng = np.random.default_rng(0)
    own = rng.integers(0, 4, 1000)
    divergence = preference_divergence(rng.choice([-1.0, 1.0], (1000, 4)), own)
    assert divergence.min() == -3.0
    assert divergence.max() == 3.0


def test_a_missing_margin_makes_the_divergence_nan_unless_it_is_the_own_one():
    scaled = np.array([[np.nan, 1.0], [np.nan, 1.0]])
    divergence = preference_divergence(scaled, np.array([0, 1]))
    assert divergence[0] == -1.0
    assert np.isnan(divergence[1])


def test_no_negative_zero():
    assert str(preference_divergence(np.array([[0.0, 0.0]]), np.array([0]))[0]) == "0.0"


@pytest.mark.parametrize(
    ("budget", "count", "kept"), [(0.3, 10, 3), (0.29, 100, 29), (0.3, 11, 3), (1.0, 5, 5), (0.1, 9, 0)]
)
def test_budget_is_floored_in_decimal(budget, count, kept):
    assert num_kept(budget, count) == kept
