"""Sums that depend on no order, and what a strategy asks for over all shards of a corpus."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from pdray.selection.statistics import SMALLEST, Total, exact_sum


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0, -0.0],
        [5e-324, -5e-324, 5e-324],
        [1e308, 1.0, -1e308, 5e-324],
        [0.1] * 10,
        [-1.5, 2.25, 1e-300, -3.0],
        np.random.default_rng(0).normal(scale=1e6, size=5000).tolist(),
    ],
)
def test_a_sum_is_that_of_fractions(values: list[float]) -> None:
    assert Fraction(exact_sum(np.array(values)), 1 << SMALLEST) == sum(map(Fraction, values))


def test_a_mean_is_the_same_in_any_order_and_grouping() -> None:
    values = np.random.default_rng(1).lognormal(0, 8, 3000) * np.where(np.arange(3000) % 2, -1, 1)
    rng, found = random.Random(0), set()
    for parts in (1, 3, 100):
        order = rng.sample(range(3000), 3000)
        totals = [Total(len(part), exact_sum(values[part])) for part in np.array_split(order, parts)]
        whole = totals[0]
        for total in totals[1:]:
            whole = whole + total
        found.add(whole.mean)
    assert found == {float(sum(map(Fraction, values.tolist())) / 3000)}
    assert np.isnan(Total(0, 0).mean)


def test_what_is_not_finite_has_no_sum() -> None:
    with pytest.raises(AssertionError):
        exact_sum(np.array([1.0, np.inf]))
