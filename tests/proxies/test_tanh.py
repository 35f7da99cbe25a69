"""The tanh head: its gradient, its fit, how many units an aspect gets."""

import numpy as np
import pytest
import torch

from pdray.proxies.tanh import MIN_UNITS, Comparisons, fit_tanh, tanh_loss, units_of

pytestmark = pytest.mark.usefixtures("one_thread")
UNITS = 5


def comparisons(dtype: type = np.float64) -> Comparisons:
    draw = np.random.default_rng(0)
    chosen = draw.integers(0, 20, 60)
    return Comparisons(
        draw.normal(size=(20, 6)).astype(dtype),
        chosen,
        (chosen + draw.integers(1, 20, 60)) % 20,
        0.3 * draw.normal(size=60),
        draw.uniform(0.5, 2, size=60),
    )


def test_loss_is_the_bradley_terry_loss_of_tanh_rewards() -> None:
    pairs = Comparisons(np.array([[1.0], [-2.0]]), np.array([0]), np.array([1]), np.array([0.5]), np.array([3.0]))
    dense, bias, final = 0.5, 0.1, 2.0
    logit = final * (np.tanh(dense + bias) - np.tanh(-2 * dense + bias)) - 0.5
    by_hand = np.log1p(np.exp(-logit)) + 0.1 / 2 * (dense**2 + final**2)
    weights = torch.tensor([dense, bias, final], dtype=torch.float64)
    assert tanh_loss(weights, pairs, 0.1, 1).item() == pytest.approx(by_hand, rel=1e-12)


def test_a_fit_converges_and_is_the_same_for_a_seed_alone() -> None:
    pairs = comparisons(np.float32)
    one, again, other = (fit_tanh(pairs, 0.01, UNITS, seed) for seed in (0, 0, 1))
    assert one.converged
    weights = torch.from_numpy(one.weights.astype(np.float32)).requires_grad_()
    (gradient,) = torch.autograd.grad(tanh_loss(weights, pairs, 0.01, UNITS), weights)
    assert gradient.abs().max() <= 1e-4
    np.testing.assert_array_equal(one.weights, again.weights)
    assert (one.weights != other.weights).any()


def test_few_steps_are_no_convergence() -> None:
    fit = fit_tanh(comparisons(np.float32), 0.001, UNITS, 0, steps=2)
    assert fit.iterations == 2
    assert not fit.converged


@pytest.mark.parametrize(
    ("num_texts", "num_features", "num_aspects", "units"),
    [
        (1546, 384, 4, 96),
        (20_000, 384, 2, 8),
        (1546, 1024, 4, 42),
        (1546, 1025, 4, 0),
        (100_000, 384, 2, 0),
        (100, 64, 9, 0),
        (100, 64, 8, MIN_UNITS),
    ],
)
def test_units_are_a_part_of_the_layer_and_fewer_for_many_texts(
    num_texts: int, num_features: int, num_aspects: int, units: int
) -> None:
    assert units_of(num_texts, num_features, num_aspects) == units
