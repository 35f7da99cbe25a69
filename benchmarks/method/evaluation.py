"""Which of two policies says the better things, by true reward."""

from __future__ import annotations

import numpy as np

from pdray.demo.words import true_reward


def wins(ours: list[str], theirs: list[str]) -> np.ndarray:
    """1 for each response with a higher true reward than its rival, 0.5 for an equal one, else 0, (n,) float64."""
    gaps = np.array([true_reward(one) - true_reward(other) for one, other in zip(ours, theirs, strict=True)])
    return (np.sign(np.round(gaps, 9)) + 1) / 2
