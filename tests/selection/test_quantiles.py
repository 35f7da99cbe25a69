"""The radix selection finds the order statistic that a full sort finds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from pdray.selection.divergence import quantile_rank
from pdray.selection.quantiles import DIGITS, absolute_quantiles, digit_counts, sortable_bits


def test_bits_sort_as_the_sizes_do():
    values = np.array([3.5, -1e-30, 0.0, -7.25, 1e30, 2.0], np.float32)
    np.testing.assert_array_equal(np.argsort(sortable_bits(values)), np.argsort(np.abs(values)))


def test_bits_leave_out_what_is_not_finite():
    assert len(sortable_bits(np.array([np.nan, np.inf, -np.inf, 1.0], np.float32))) == 1


def test_digits_cover_a_float():
    assert sum(DIGITS) == 32


def test_counts_follow_a_prefix():
    bits = np.array([0b00000000001_00000000010_0000000011, 0b00000000010_00000000010_0000000011], np.uint32)
    assert digit_counts(bits, 0, 0)[[1, 2]].tolist() == [1, 1]
    assert digit_counts(bits, 1, 1)[2] == 1
    assert digit_counts(bits, 1, 1).sum() == 1
    assert digit_counts(bits, (1 << 11) | 2, 2)[3] == 1


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("num_blocks", [1, 7])
def test_quantiles_equal_those_of_a_sort(ray_local, gamma, num_blocks):
    import ray

    rng = np.random.default_rng(7)
    columns = {
        "margin.wide": (rng.normal(size=999) * 10.0 ** rng.integers(-20, 20, 999)).astype(np.float32),
        "margin.ties": rng.integers(-2, 3, 999).astype(np.float32),
        "margin.gaps": np.where(rng.random(999) < 0.3, np.nan, rng.normal(size=999)).astype(np.float32),
        "margin.none": np.full(999, np.nan, np.float32),
    }
    table = pa.table(columns)
    bounds = np.linspace(0, 999, num_blocks + 1).astype(int)
    blocks = [ray.put(table.slice(a, b - a)) for a, b in pairwise(bounds)]
    found = absolute_quantiles(blocks, list(columns), gamma)
    for name, values in columns.items():
        sizes = np.sort(np.abs(values[np.isfinite(values)]))
        if len(sizes):
            assert found[name] == sizes[quantile_rank(gamma, len(sizes)) - 1]
        else:
            assert np.isnan(found[name])


def test_no_finite_value_at_all(ray_local):
    import ray

    block = ray.put(pa.table({"margin.a": np.full(5, np.nan, np.float32)}))
    assert np.isnan(absolute_quantiles([block], ["margin.a"], 0.9)["margin.a"])
