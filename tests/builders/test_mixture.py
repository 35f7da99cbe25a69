"""Which candidates make a data set of a level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdray.builders.mixture import AGREES, CONFLICTS, TOLERANCE, UNKNOWN, choose, even_shares, size_at
from pdray.errors import UserError


def candidates(conflicting, agreeing, unknown=0, aspects=4, seed=0):
    rng = np.random.default_rng(seed)
    states = np.repeat([CONFLICTS, AGREES, UNKNOWN], [conflicting, agreeing, unknown])
    keys = rng.permutation(len(states)).astype(np.uint64)
    return keys, rng.integers(aspects, size=len(states)), rng.permutation(states)


@pytest.mark.parametrize("level", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("pairs", [None, 1000])
def test_a_level_is_met_to_within_half_a_point(level, pairs):
    keys, aspects, states = candidates(1290, 2710, 100)
    kept = choose(keys, aspects, states, level, pairs)
    assert abs(np.mean(states[kept] == CONFLICTS) - level) <= TOLERANCE
    assert not np.any(states[kept] == UNKNOWN)
    assert kept.sum() == (pairs or min(int(1290 / level), int(2710 / (1 - level) + 1e-9)))


def test_labels_are_spread_evenly_within_conflicts_and_agreements():
    keys, aspects, states = candidates(1290, 2710)
    kept = choose(keys, aspects, states, 0.2, 1000)
    for state, count in ((CONFLICTS, 200), (AGREES, 800)):
        assert np.bincount(aspects[kept & (states == state)]).tolist() == [count // 4] * 4


def test_the_choice_is_of_the_smallest_keys_whatever_the_order():
    keys, aspects, states = candidates(40, 60)
    kept = choose(keys, aspects, states, 0.3, 20)
    order = np.random.default_rng(1).permutation(100)
    assert np.array_equal(choose(keys[order], aspects[order], states[order], 0.3, 20), kept[order])
    for aspect in range(4):
        cell = (aspects == aspect) & (states == AGREES)
        assert keys[cell & kept].max() < keys[cell & ~kept].min()


def test_without_a_level_all_pairs_stay_or_so_many_as_were_asked_for():
    keys, aspects, states = candidates(40, 60, 10)
    assert choose(keys, aspects, states, None, None).all()
    assert choose(keys, aspects, states, None, 20).sum() == 20
    with pytest.raises(UserError, match=r"gives 110 pairs, but --pairs is 111; lower it"):
        choose(keys, aspects, states, None, 111)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 500, 0.1, None), r"--conflict 0\.1 cannot be met to within half a percentage point with 0 pairs"),
        ((50, 500, 0.1, 501), r"at most 500 pairs \(50 of the data conflict, 500 agree\), but --pairs is 501"),
        ((50, 500, 0.1, 7), r"--conflict 0\.1 cannot be met to within half a percentage point with 7 pairs"),
        ((1, 6, 0.1, None), r"cannot be met.*nearer to its own 14\.3%"),
    ],
)
def test_a_level_out_of_reach_is_refused(numbers, message):
    with pytest.raises(UserError, match=message):
        size_at(*numbers)


@given(st.integers(0, 5000), st.integers(0, 5000), st.floats(0, 1))
def test_a_size_never_takes_more_than_there_is(conflicting, agreeing, level):
    try:
        size = size_at(conflicting, agreeing, level, None)
    except UserError:
        return
    taken = round(level * size)
    assert size > 0 and taken <= conflicting and size - taken <= agreeing
    assert abs(taken / size - level) <= TOLERANCE


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.floats(0, 1))
def test_shares_are_even_where_the_supply_allows(supply, part):
    total = int(part * sum(supply))
    shares = even_shares(np.array(supply), total)
    assert shares.sum() == total
    assert (shares <= supply).all()
    free = shares[shares < supply]
    assert len(free) == 0 or (free.max() - free.min() <= 1 and free.max() >= shares.max() - 1)
