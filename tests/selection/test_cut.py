"""The quantiles, the radix cut and a sort of everything agree, in this process and without Ray."""

from __future__ import annotations

import operator
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.selection.cut import CountKeys, Cut, Gather, radix_cut
from pdray.selection.divergence import quantile_rank
from pdray.selection.order import Ordering
from pdray.selection.quantiles import absolute_quantiles
from pdray.selection.stage import pair_source
from tests.selection.cases import ASPECTS, Case, by_hand, divergence, random_case, write_case


class Passes:
    """Runs passes one shard after the other and remembers them."""

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards
        self.made: list[object] = []

    def __call__(self, work):
        self.made.append(work)
        return reduce(operator.add, (work(shard) for shard in range(self.num_shards)))


def cut_of(tmp_path: Path, case: Case, num_shards: int, wanted: int, gathered: int, strategy: str = "pd"):
    """The cut, and the passes that it took."""
    source = pair_source(write_case(tmp_path, case, num_shards))
    passes = Passes(num_shards)
    order = Ordering(source, absolute_quantiles(source, 0.9, passes), strategy, 0)
    first = passes(CountKeys(order, 0, 0)).counts
    passes.made.clear()
    return radix_cut(order, wanted, first, passes, gathered), passes.made


def kept_by(cut: Cut, case: Case, keys: np.ndarray) -> list[str]:
    from pdray.selection.radix import ordered_bits

    return pa.array(case.ids).filter(pa.array(cut.keeps(ordered_bits(keys), pa.array(case.ids)))).to_pylist()


def odd_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Ids of any length, many of which begin alike, with characters of one to four bytes."""
    letters = ["a", "b", "é", "日", "🙂", "\x00", "/"]
    found: set[str] = set()
    while len(found) < count:
        start = rng.choice(["", "shared/start/of/many/", "shared/start/of/few-"], p=[0.2, 0.6, 0.2])
        found.add(start + "".join(rng.choice(letters, rng.integers(0, 9))))
    return rng.permutation(sorted(found)).tolist()


@pytest.mark.parametrize("seed", range(40))
def test_the_radix_cut_keeps_what_a_sort_of_everything_keeps(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 500))
    case = random_case(seed, rows, odd=float(rng.choice([0.0, 0.05, 0.3])), ids=odd_ids(rng, rows))
    if rng.random() < 0.4:  # ties everywhere
        case.rewards = np.sign(case.rewards)
        case.penalty = 0.0
    finite = int(np.isfinite(divergence(case)).sum())
    if not finite:
        pytest.skip("no finite pair")
    wanted = int(rng.integers(1, finite + 1))
    strategy = str(rng.choice(["pd", "pd_high"]))
    cut, _ = cut_of(tmp_path, case, int(rng.integers(1, 9)), wanted, int(rng.choice([1, 5, 1000])), strategy)
    expected = [pair_id for _, pair_id, _ in by_hand(case, 1.0, strategy=strategy)][:wanted]
    keys = divergence(case) * (1 if strategy == "pd" else -1) + 0.0
    assert sorted(kept_by(cut, case, keys)) == sorted(expected)


def test_ties_that_are_most_of_the_corpus_are_never_gathered(tmp_path):
    case = random_case(rows=3000, odd=0.0)
    case.rewards = np.zeros_like(case.rewards)
    case.rewards[:, 0] = 1.0  # every margin is clipped to 1
    case.penalty = 0.0
    cut, passes = cut_of(tmp_path, case, 4, wanted=1000, gathered=50)
    assert sorted(kept_by(cut, case, divergence(case))) == sorted(case.ids)[:1000]
    gathers = [work for work in passes if isinstance(work, Gather)]
    assert len(gathers) == 1
    assert sum(len(gathers[0](shard).ids) for shard in range(4)) <= 50


@pytest.mark.parametrize("wanted", [1, 399])
def test_all_ties_but_some_are_kept(tmp_path, wanted):
    case = random_case(rows=400, odd=0.0)
    case.rewards = np.zeros_like(case.rewards)
    case.penalty = 0.0
    cut, _ = cut_of(tmp_path, case, 2, wanted, gathered=50)
    assert sorted(kept_by(cut, case, divergence(case))) == sorted(case.ids)[:wanted]


def test_all_ties_are_kept_without_looking_at_an_id(tmp_path):
    case = random_case(rows=400, odd=0.0)
    case.rewards = np.zeros_like(case.rewards)
    case.penalty = 0.0
    cut, passes = cut_of(tmp_path, case, 2, wanted=400, gathered=50)
    assert cut.last_id is None
    assert len(passes) == 1
    assert len(kept_by(cut, case, divergence(case))) == 400


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("num_shards", [1, 7])
def test_quantiles_are_those_of_a_sort_over_the_pairs_of_other_aspects(tmp_path, gamma, num_shards):
    case = random_case(seed=7, rows=999, odd=0.1)
    rng = np.random.default_rng(7)
    case.rewards[:, 0, 0] = rng.normal(size=999) * 10.0 ** rng.integers(-20, 20, 999)
    case.rewards[:, :, 2] = np.nan
    source = pair_source(write_case(tmp_path, case, num_shards))
    found = absolute_quantiles(source, gamma, Passes(num_shards))
    lengths = (case.tokens[:, 0] - case.tokens[:, 1]).astype(float)
    for index, aspect in enumerate(ASPECTS):
        with np.errstate(invalid="ignore"):
            margins = case.rewards[:, 0, index].astype(float) - case.rewards[:, 1, index] - case.penalty * lengths
        sizes = np.abs(margins.astype(np.float32)[case.own != index])
        sizes = np.sort(sizes[np.isfinite(sizes)])
        if aspect == "c":
            assert np.isnan(found[aspect])
        else:
            assert found[aspect] == sizes[quantile_rank(gamma, len(sizes)) - 1]
