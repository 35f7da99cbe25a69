"""Rewards from features: what the last layers make of them."""

import numpy as np

from pdray.rewards import RewardHead


def test_a_head_with_a_dense_layer_is_final_of_tanh_of_dense() -> None:
    head = RewardHead(
        np.array([[2.0, -1.0]], np.float32),
        np.array([0.5], np.float32),
        np.array([[1.0, 0.0], [0.0, 3.0]], np.float32),
        np.array([0.25, 0.0], np.float32),
    )
    features = np.array([[0.5, -0.5], [np.nan, 0.0]], np.float32)
    rewards = head.rewards(features)
    assert rewards.dtype == np.float32
    np.testing.assert_allclose(rewards[0], [2 * np.tanh(0.75) + np.tanh(1.5) + 0.5], rtol=1e-6)
    assert np.isnan(rewards[1, 0])


def test_a_head_without_a_dense_layer_is_linear() -> None:
    head = RewardHead(np.array([[2.0, -1.0]], np.float32), np.array([0.5], np.float32))
    assert head.rewards(np.array([[3.0, 1.0]], np.float32)).tolist() == [[5.5]]
