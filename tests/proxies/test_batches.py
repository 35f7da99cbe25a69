"""Pairs of several aspects share the steps of one model evenly."""

import numpy as np
import pytest

from pdray.proxies.batches import MOST_REPEATS, even_draws, training_order


def test_every_aspect_draws_alike_and_repeats_no_pair_too_often() -> None:
    assert even_draws([7]) == [7]
    assert even_draws([100, 100, 100]) == [100, 100, 100]
    assert even_draws([300, 100, 50]) == [150, 150, 150]
    assert even_draws([1000, 10]) == [505, 10 * MOST_REPEATS]


@pytest.mark.parametrize("epochs", [1.0, 2.5])
def test_every_batch_holds_all_aspects_in_like_number(epochs: float) -> None:
    """Seen red with one permutation of all rows."""
    aspect = np.repeat([0, 1, 2, 3], 40)
    order = training_order(aspect, epochs, seed=0)
    assert len(order) == 160 * epochs
    for start in range(0, len(order), 16):
        assert np.bincount(aspect[order[start : start + 16]], minlength=4).tolist() == [4, 4, 4, 4]
    assert sorted(order[:160]) == list(range(160))
    assert order[:160].tolist() != order[160:320].tolist()
    assert order.tolist() == training_order(aspect, epochs, seed=0).tolist()
    assert order.tolist() != training_order(aspect, epochs, seed=1).tolist()


def test_aspects_of_unlike_number_keep_their_distances() -> None:
    aspect = np.array([0] * 90 + [1] * 30)
    order = training_order(aspect, 1.0, seed=0)
    shares = [np.bincount(aspect[order[start : start + 12]], minlength=2).tolist() for start in range(0, 120, 12)]
    assert all(rare in (2, 3, 4) for _, rare in shares)
