"""How features are scaled by blocks, and which of two readings is taken."""

import numpy as np
import pytest

from pdray.config import ProxiesConfig
from pdray.proxies.features import PairFeatures
from pdray.proxies.forms import Linear, ProxyPairs
from pdray.proxies.readings import Reading, best


def pairs_of(values: np.ndarray) -> ProxyPairs:
    n = len(values) // 2
    features = PairFeatures(values.astype(np.float32), np.arange(n), np.arange(n, 2 * n), np.zeros(n, np.int64))
    return ProxyPairs(features, np.zeros(n), np.ones(n))


def test_a_block_weighs_as_much_as_one_feature() -> None:
    """A signal spread over a block of four copies is shrunk as much as the same signal in one feature."""
    draw = np.random.default_rng(0)
    signal, noise = draw.normal(size=400), draw.normal(size=400)
    signal[:200] += 1
    copies = pairs_of(np.column_stack([signal * 100] * 4 + [noise]))
    single = pairs_of(np.column_stack([signal, noise]))
    wide, narrow = Reading("apart", (4, 1)), Reading("apart", (1, 1))
    rewards = []
    for reading, pairs in ((wide, copies), (narrow, single)):
        scale = reading.scale(pairs.features)
        weights = Linear(False).fit(pairs, scale, 0.3).weights
        rewards.append(Linear(False).head(weights, scale).rewards(pairs.features.values))
    np.testing.assert_allclose(rewards[0] - rewards[0][0], rewards[1] - rewards[1][0], atol=1e-4)
    whole = Reading("together", (5,)).scale(copies.features)
    np.testing.assert_allclose(whole.spread, copies.features.moments()[1])


def test_the_smaller_loss_is_taken_and_of_equal_ones_the_simpler_reading() -> None:
    assert best({"together": 0.6, "apart": 0.5}) == "apart"
    assert best({"apart": 0.6, "together": 0.5}) == "together"
    assert best({"apart": 0.5, "together": 0.5}) == "together"


def test_only_heads_read_apart() -> None:
    with pytest.raises(ValueError, match="reading is apart, but only heads read so; set train to head"):
        ProxiesConfig(base_model="x", reading="apart")
