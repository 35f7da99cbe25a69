"""A guess from one shard saves passes and decides nothing: right or wrong, what is found is what a sort finds."""

from __future__ import annotations

import operator
from functools import reduce

import numpy as np
import pytest

from pdray.selection import cut as cuts
from pdray.selection import guess as guesses
from pdray.selection import quantiles
from pdray.selection.cut import CountAround, CountKeys, radix_cut
from pdray.selection.guess import Around, Bracket, around, guess
from pdray.selection.order import Ordering
from pdray.selection.quantiles import CountSizes, SizesAround, absolute_quantiles
from pdray.selection.radix import NOT_FINITE, ordered_bits
from pdray.selection.stage import pair_source
from tests.selection.cases import ASPECTS, random_case, write_case
from tests.selection.test_cut import Passes


def passes_of(work: Passes) -> list[type]:
    return [type(one) for one in work.made]


@pytest.mark.parametrize("seed", range(20))
def test_a_value_that_is_found_around_a_bracket_is_that_of_a_sort(seed):
    rng = np.random.default_rng(seed)
    shards = [rng.integers(0, rng.choice([3, 50, 2**31]), rng.integers(0, 60)).astype(np.uint32) for _ in range(5)]
    low, high = sorted(rng.choice(np.concatenate([*shards, [0, 40]]), 2).tolist())
    found: Around = reduce(operator.add, (around(shard, Bracket(low, high)) for shard in shards))
    every = np.sort(np.concatenate(shards))
    assert found.total == len(every)
    for rank, value in enumerate(every.tolist(), 1):
        assert found.at(rank) == (value if low <= value <= high else None)
    assert found.at(0) is None
    assert found.at(len(every) + 1) is None


def test_too_many_values_are_not_kept_and_none_is_lost_unnoticed(monkeypatch):
    monkeypatch.setattr(guesses, "MOST_INSIDE", 20)
    few, many = np.arange(10, dtype=np.uint32), np.arange(21, dtype=np.uint32)
    assert around(many, Bracket(0, 99)).inside is None
    assert around(many, Bracket(5, 9)).at(7) == 6
    assert len((around(few, Bracket(0, 99)) + around(few, Bracket(0, 99))).inside) == 20
    for parts in ([many, few], [few, many], [few, few, few]):
        found = reduce(operator.add, (around(part, Bracket(0, 99)) for part in parts))
        assert (found.inside, found.total, found.at(1)) == (None, sum(map(len, parts)), None)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 1.0])
def test_what_a_sample_guesses_holds_and_is_narrow(share):
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = ordered_bits(rng.normal(size=40_000))
        bracket = guess(values[:4000], share, 10)
        assert bracket is not None
        wanted = np.sort(values)[min(int(share * len(values)), len(values) - 1)]
        assert bracket.low <= int(wanted) <= bracket.high
        assert bracket.holds(values).mean() < 0.12


def test_there_is_no_guess_without_a_sample_or_where_too_many_would_be_collected():
    sample = np.arange(1000, dtype=np.uint32)
    assert guess(sample[:0], 0.3, 4) is None
    assert guess(sample, 0.3, 4) is not None
    assert guess(sample, 0.3, 10_000) is None
    assert guess(np.zeros(1000, np.uint32), 0.3, 1000) is None


def test_quantiles_take_one_pass(tmp_path):
    source = pair_source(write_case(tmp_path, random_case(rows=2000, odd=0.0), 4))
    run = Passes(4)
    absolute_quantiles(source, 0.9, run)
    assert passes_of(run) == [SizesAround]


@pytest.mark.parametrize("bracket", [None, Bracket(5, 6), Bracket(2**32 - 2, 2**32 - 1)])
def test_quantiles_are_found_where_the_guess_does_not_hold(tmp_path, monkeypatch, bracket):
    source = pair_source(write_case(tmp_path, random_case(rows=900, odd=0.1), 3))
    expected = absolute_quantiles(source, 0.9, Passes(3))
    sizes = [quantiles._sizes(source.margins(0), index) for index in range(len(ASPECTS))]
    # The guess of the first aspect alone fails.
    monkeypatch.setattr(
        quantiles, "guess", lambda sample, *rest: bracket if np.array_equal(sample, sizes[0]) else guess(sample, *rest)
    )
    run = Passes(3)
    assert absolute_quantiles(source, 0.9, run) == expected
    assert passes_of(run) == [SizesAround, CountSizes, CountSizes]


@pytest.mark.parametrize("most", [1 << 18, 20])
@pytest.mark.parametrize("seed", range(12))
def test_a_cut_around_a_bracket_is_the_radix_cut(tmp_path, monkeypatch, seed, most):
    rng = np.random.default_rng(seed)
    case = random_case(seed, 300, odd=0.1)
    if seed % 3 == 0:  # ties everywhere
        case.rewards = np.sign(case.rewards)
        case.penalty = 0.0
    source, run = pair_source(write_case(tmp_path, case, 4)), Passes(4)
    order = Ordering(source, absolute_quantiles(source, 0.9, run), "pd", 0)
    every = np.concatenate([order.bits(shard) for shard in range(4)])
    bracket = Bracket(*sorted(rng.choice(every, 2).tolist()))
    monkeypatch.setattr(guesses, "MOST_INSIDE", most)
    monkeypatch.setattr(cuts, "MOST_INSIDE", most)
    found = run(CountAround(order, bracket))
    first = run(CountKeys(order, 0, 0)).counts
    assert (found.digits.counts == first).all()
    assert found.rows is None or (found.rows.bits != NOT_FINITE).all()
    finite = int(first.sum())
    below, inside = int((every < np.uint64(bracket.low)).sum()), bracket.holds(every) & np.isfinite(_keys(order))
    for wanted in range(1, finite + 1, 7):
        one = found.cut(wanted)
        if inside.sum() <= most and below < wanted <= below + inside.sum():
            other = radix_cut(order, wanted, first, run, 10)
            kept = [one.keeps(order.bits(shard), source.ids(shard)) for shard in range(4)]
            assert [k.tolist() for k in kept] == [
                other.keeps(order.bits(shard), source.ids(shard)).tolist() for shard in range(4)
            ]
            assert sum(map(sum, kept)) == wanted
        else:
            assert one is None


def _keys(order: Ordering) -> np.ndarray:
    return np.concatenate([order.keys(shard, order.divergence(shard)[1]) for shard in range(4)])
