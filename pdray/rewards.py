"""What a reward model's last layers make of a feature; the proxies and scoring compute it here alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RewardHead:
    """The last layers of a reward model: W·x + b, or W·tanh(D·x + d) + b where a dense layer comes first.

    Attributes:
        weight: (outputs, units) float32, W.
        bias: (outputs,) float32, b; zeros where the layer has none.
        dense: (units, H) float32, D; None for a head that reads the feature itself.
        dense_bias: (units,) float32, d.
    """

    weight: np.ndarray
    bias: np.ndarray
    dense: np.ndarray | None = None
    dense_bias: np.ndarray | None = None

    @property
    def width(self) -> int:
        """H, features that it reads."""
        return int((self.weight if self.dense is None else self.dense).shape[1])

    def rewards(self, features: np.ndarray) -> np.ndarray:
        """(n, outputs) float32 of (n, H) float32 features; a row that is not finite stays so."""
        hidden = features
        if self.dense is not None:
            hidden = np.tanh(features @ self.dense.T + self.dense_bias)
        rewards: np.ndarray = (hidden @ self.weight.T + self.bias).astype(np.float32)
        return rewards
