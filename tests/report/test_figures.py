"""What is read off the grid beside the same from all values."""

from __future__ import annotations

import numpy as np
import pytest

from pdray.report import figures
from pdray.selection.auroc import BINS, auroc, grid_counts


def test_quantiles_are_within_a_part_of_the_grid() -> None:
    values = np.random.default_rng(1).normal(0, 0.4, 5000).clip(-1, 1)
    counts = grid_counts(np.append(values, [np.nan, np.inf]), 1.0)
    assert counts.sum() == 5000
    for share in (0.05, 0.5, 0.95):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert figures.grid_quantile(counts, 1.0, share) == pytest.approx(exact, abs=2 / BINS)
    assert figures.grid_quantile(np.zeros(8, int), 1.0, 0.5) is None


def test_what_lies_on_a_limit_is_counted() -> None:
    assert grid_counts(np.array([-2.0, 2.0, 3.0]), 2.0, 4).tolist() == [1, 0, 0, 2]


def test_auroc_counts_ties_half_and_knows_its_error() -> None:
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(0.5, 1, 300).clip(-2, 2), rng.normal(0, 1, 400).clip(-2, 2)
    pairs = positive[:, None] - negative
    exact = (pairs > 0).mean() + (pairs == 0).mean() / 2
    found = auroc(*(grid_counts(side, 2.0, 64) for side in (positive, negative)))
    assert found is not None and abs(found[0] - exact) <= found[1] < 0.05
    assert auroc(np.array([0, 5]), np.array([0, 0])) is None


def test_the_curve_counts_conflicts_from_the_lowest_divergence_on() -> None:
    rng = np.random.default_rng(3)
    divergence, conflict = np.sort(rng.random(1000)), rng.random(1000) < np.linspace(0, 0.5, 1000)
    grid = [grid_counts(divergence[conflict == value], 1.0) for value in (True, False)]
    budgets, shares = figures.conflict_curve(*grid, points=10)
    assert budgets.tolist() == pytest.approx([0.1 * number for number in range(1, 11)])
    assert shares.tolist() == pytest.approx([conflict[: 100 * n].mean() for n in range(1, 11)], abs=5e-3)


def test_agreement_is_of_the_pairs_that_have_both() -> None:
    margins = np.array([[1.0, 0.5, np.nan], [-1.0, -0.5, 0.2], [np.nan, 0.3, 0.3]])
    has, known = np.isfinite(margins).astype(float), np.nan_to_num(margins)
    found = figures.agreement(known.T @ known, (known**2).T @ has)
    assert found[0][1] == pytest.approx(1.0)
    assert found[0][2] == pytest.approx(-1.0)
    assert found[1][2] == pytest.approx((-0.1 + 0.09) / np.sqrt((0.25 + 0.09) * (0.04 + 0.09)))
    assert figures.agreement(np.zeros((1, 1)), np.zeros((1, 1))) == [[None]]


def test_octaves() -> None:
    assert figures.octaves(np.array([0, 1, 2, 3, 4, 1023, 1024])).tolist() == [0, 0, 1, 1, 2, 9, 10]
