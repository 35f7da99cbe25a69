"""Accuracy on held-out pairs: margins, ties, and intervals that draw whole prompts."""

from __future__ import annotations

import numpy as np
import pytest

from pdray.evaluation.accuracy import estimate, implicit_margins, is_right


def test_margins_are_differences_of_log_ratios() -> None:
    policy = np.array([[-1.0, -4.0], [-2.0, -2.0]], np.float32)
    reference = np.array([[-2.0, -3.0], [-2.0, -2.0]], np.float32)
    assert implicit_margins(policy, reference).tolist() == [2.0, 0.0]
    assert implicit_margins(policy, reference).dtype == np.float64


def test_a_tie_is_half_right_and_the_unknown_stays_unknown() -> None:
    right = is_right(np.array([0.1, -3.0, 0.0, np.nan]))
    assert right[:3].tolist() == [1.0, 0.0, 0.5]
    assert np.isnan(right[3])


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """120 samples of 40 prompts with 5 pairs that share their prompt's luck."""
    rng, prompts, inside, naive = np.random.default_rng(0), np.repeat(np.arange(40), 5), 0, 0
    for seed in range(120):
        chance = np.repeat(rng.beta(2, 2, 40), 5)  # mean 0.5
        values = (rng.random(200) < chance).astype(float)
        of_prompts, of_pairs = estimate(values, prompts, seed), estimate(values, np.arange(200), seed)
        inside += of_prompts.low <= 0.5 <= of_prompts.high
        naive += of_pairs.low <= 0.5 <= of_pairs.high
    assert 0.9 <= inside / 120 <= 0.99
    assert naive / 120 < 0.9


def test_the_mean_is_of_the_pairs_and_the_draws_are_seeded() -> None:
    values, prompts = np.array([1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "a", "b"])
    found = estimate(values, prompts, 3)
    assert (found.mean, found.pairs) == (0.75, 4)
    assert found == estimate(values, prompts, 3)
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_prompt_of_many_pairs_weighs_as_many() -> None:
    prompts = np.concatenate([np.repeat(np.arange(20), 9), np.arange(20, 40)])
    found = estimate((prompts < 20).astype(float), prompts, 0)
    assert 0.8 < found.low < found.mean == 0.9 < found.high < 0.96


def test_one_prompt_alone_has_no_spread() -> None:
    found = estimate(np.array([1.0, 0.0]), np.array(["a", "a"]), 0)
    assert (found.mean, found.low, found.high) == (0.5, pytest.approx(0.5), pytest.approx(0.5))
