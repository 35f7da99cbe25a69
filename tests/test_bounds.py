"""Theorems 3.4 and 3.5 by enumeration, in the reading that benchmarks/bounds.py states."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.bounds import (
    ROUNDING,
    Ends,
    dfpo_loss,
    divergence_of,
    is_lowest,
    loss_bounds,
    meets_condition,
    most_negative,
    normalised_rewards,
    subset_bounds,
    subsets,
)

numbers = st.floats(-4, 4)


@st.composite
def worlds(draw: Any) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Rewards of few pairs in [0, r], the aspects that label them, κ and r; ties are likely."""
    kappa, pairs = draw(st.integers(2, 5)), draw(st.integers(2, 7))
    raw = draw(arrays(float, (pairs, 2, kappa), elements=st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)))
    own = draw(arrays(int, pairs, elements=st.integers(0, kappa - 1)))
    most = draw(st.floats(0.01, 5))
    return normalised_rewards(raw, most), own, kappa, most


@st.composite
def raised_ends(draw: Any) -> Ends:
    """Intervals of margins that training moves up, or leaves where they are."""
    low, width, up, wider = draw(numbers), *(draw(st.floats(0, 4)) for _ in range(3))
    return Ends((low, low + width), (low + up, low + up + max(width - up, 0) + wider))


def test_by_hand() -> None:
    """Two pairs, κ = 2: ln(1 + e⁻ˣ) at x = 2·1 − 0.5 inside and at 2·0 + 0.5 outside for the upper bound."""
    lower, upper = loss_bounds(np.array([-0.5, 0.5]), np.array([True, False]), 2, Ends((0.0, 1.0), (1.0, 2.0)))
    np.testing.assert_allclose(upper, (np.log1p(np.exp(-1.5)) + np.log1p(np.exp(-0.5))) / 2)
    np.testing.assert_allclose(lower, (np.log1p(np.exp(-3.5)) + np.log1p(np.exp(-2.5))) / 2)
    assert meets_condition(2, 1.0, Ends((0.0, 1.0), (1.0, 2.0)))
    assert not meets_condition(2, 1.01, Ends((0.0, 1.0), (1.0, 2.0)))


@given(worlds())
def test_rewards_in_0_to_r_bound_the_divergence(world: tuple[np.ndarray, np.ndarray, int, float]) -> None:
    rewards, own, kappa, most = world
    assert rewards.min() >= 0
    assert rewards.max() <= most
    for aspect in range(kappa):
        assert rewards[:, :, aspect].max() in (0.0, most)
    assert np.abs(divergence_of(rewards, own)).max() <= (kappa - 1) * most * (1 + ROUNDING)


@given(worlds(), raised_ends(), st.data())
def test_the_loss_lies_between_its_bounds(
    world: tuple[np.ndarray, np.ndarray, int, float], ends: Ends, data: st.DataObject
) -> None:
    rewards, own, kappa, _ = world
    divergence = divergence_of(rewards, own)
    trained = data.draw(arrays(bool, len(own)))
    places = data.draw(arrays(float, len(own), elements=st.floats(0, 1)))
    margins = np.where(trained, _between(ends.trained, places), _between(ends.out, places))
    loss = dfpo_loss(margins, divergence, kappa).mean()
    lower, upper = loss_bounds(divergence, trained, kappa, ends)
    assert lower - ROUNDING <= loss <= upper + ROUNDING


def _between(ends: tuple[float, float], places: np.ndarray) -> np.ndarray:
    return ends[0] + places * (ends[1] - ends[0])


@given(worlds(), raised_ends(), st.data())
def test_no_subset_has_lower_bounds_than_the_most_negative_divergences(
    world: tuple[np.ndarray, np.ndarray, int, float], ends: Ends, data: st.DataObject
) -> None:
    """Theorem 3.5, whether or not the margins are raised by as much as the paper's condition asks."""
    rewards, own, kappa, _ = world
    divergence = divergence_of(rewards, own)
    size = data.draw(st.integers(1, len(own)))
    ours, every = most_negative(divergence, size), subsets(len(own), size)
    for bound, bounds in zip(
        loss_bounds(divergence, ours, kappa, ends), loss_bounds(divergence, every, kappa, ends), strict=True
    ):
        assert is_lowest(bound, bounds)
    # The loss of the subset alone is lowest where the divergence is most positive.
    opposite = most_negative(-divergence, size)
    for bound, bounds in zip(
        subset_bounds(divergence, opposite, kappa, ends), subset_bounds(divergence, every, kappa, ends), strict=True
    ):
        assert is_lowest(bound, bounds)


def test_where_training_lowers_the_margins_the_theorem_fails() -> None:
    divergence, ends = np.array([-1.0, 0.0, 1.0]), Ends((0.0, 1.0), (-1.0, 0.0))
    ours, every = most_negative(divergence, 1), subsets(3, 1)
    for end in (0, 1):
        assert not is_lowest(loss_bounds(divergence, ours, 3, ends)[end], loss_bounds(divergence, every, 3, ends)[end])
