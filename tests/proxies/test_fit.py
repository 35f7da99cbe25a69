"""The convex fit: its gradient and its optimum."""

import numpy as np
import pytest

from pdray.proxies import length
from pdray.proxies.fit import STRENGTHS, Pairs, bradley_terry, fit_head


def make_pairs(count: int = 300, size: int = 8, noise: float = 1.0, seed: int = 0) -> Pairs:
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=size)
    difference = draw.normal(size=(count, size))
    difference *= np.sign(difference @ truth + noise * draw.logistic(size=count))[:, None]
    return Pairs(difference, 0.3 * draw.normal(size=count), draw.uniform(0.5, 2, size=count))


def test_gradient_is_that_of_the_loss() -> None:
    pairs, weights, step = make_pairs(), np.linspace(-1, 1, 8), 1e-6
    numeric = [
        (bradley_terry(weights + step * unit, pairs, 0.1)[0] - bradley_terry(weights - step * unit, pairs, 0.1)[0])
        / (2 * step)
        for unit in np.eye(8)
    ]
    np.testing.assert_allclose(bradley_terry(weights, pairs, 0.1)[1], numeric, atol=1e-8)


def test_loss_is_the_bradley_terry_loss_with_the_margin_inside() -> None:
    pairs = Pairs(np.array([[1.0], [-2.0]]), np.array([0.5, 0.25]), np.array([1.0, 3.0]))
    # −log σ(2 − 0.5) and −log σ(−4 − 0.25), weighted 1 : 3, and 0.1/2 · 2²
    by_hand = (np.log1p(np.exp(-1.5)) + 3 * np.log1p(np.exp(4.25))) / 4 + 0.2
    assert bradley_terry(np.array([2.0]), pairs, 0.1)[0] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_fit_is_the_optimum_that_newton_finds(l2: float) -> None:
    pairs, weights = make_pairs(), np.zeros(8)
    share = pairs.weight / pairs.weight.sum()
    for _ in range(30):
        gradient = bradley_terry(weights, pairs, l2)[1]
        chance = 1 / (1 + np.exp(-(pairs.difference @ weights - pairs.margin)))
        curvature = (pairs.difference * (share * chance * (1 - chance))[:, None]).T @ pairs.difference
        weights = weights - np.linalg.solve(curvature + l2 * np.eye(8), gradient)
    fit = fit_head(pairs, l2)
    assert fit.converged
    assert np.abs(bradley_terry(fit.weights, pairs, l2)[1]).max() <= 1e-6
    np.testing.assert_allclose(fit.weights, weights, atol=2e-6 / l2)


def test_pairs_that_can_be_told_apart_wholly_still_have_an_optimum() -> None:
    assert all(fit_head(make_pairs(40, 30, noise=0.0), l2).converged for l2 in STRENGTHS)


def test_weights_are_the_expectation_of_balanced_draws() -> None:
    difference = np.where(np.arange(200) < 140, 5, -5)  # f⁺ = 0.7; many draws of each pair, so rounding is small
    ids = [f"pair-{index:03}" for index in range(200)]
    drawn = length.draw(ids, difference, 200 * 500, 0.5, seed=0)
    frequency = np.bincount(drawn, minlength=200) / 500
    np.testing.assert_allclose(length.balance_weights(difference, 0.5), frequency, atol=0.005)


def test_weights_sum_to_the_pairs_and_are_even_without_temperature_or_with_one_side() -> None:
    difference = np.array([3, 2, 0, -1])
    assert length.balance_weights(difference, 1.0).sum() == pytest.approx(4)
    assert length.balance_weights(difference, None).tolist() == [1] * 4
    assert length.balance_weights(np.abs(difference), 1.0).tolist() == [1] * 4
