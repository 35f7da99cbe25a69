"""Fusion of the reward margin and the implicit margin ("Less is More", Deng et al., NeurIPS 2025, arXiv 2502.14560).

Each margin m becomes the probability p = (clip(m, L, U) − L) / (U − L) that the label is right; independent sources
give p₁p₂ / (p₁p₂ + (1 − p₁)(1 − p₂)), the largest first. L and U keep outliers from stretching the scale; here they are
the 1% and the 99% quantile over the corpus. The reward margin is that of the aspect that labelled the pair.
"""

import numpy as np

from pdray.selection.strategy import Statistic, Strategy, Table

LOW, HIGH = 0.01, 0.99
MARGINS = {"reward": lambda table: table.own_margins, "implicit": lambda table: table.logps.implicit_margin}


def probability(margins: np.ndarray, low: float, high: float) -> np.ndarray:
    """(n,) float64 in [0, 1] from margins; 0.5 for all where they never change."""
    if not high > low:
        return np.where(np.isfinite(margins), 0.5, np.nan)
    return (np.clip(np.where(np.isfinite(margins), margins, np.nan), low, high) - low) / (high - low)


def fuse(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) float64, what two independent probabilities of the same give together; 0.5 where certainties contradict."""
    right, wrong = one * other, (1 - one) * (1 - other)
    total = right + wrong
    return np.where(total == 0, 0.5, right / np.where(total == 0, 1.0, total))


def key(table: Table) -> np.ndarray:
    """(n,) float64, minus the fused probability."""
    found = table.statistics
    return -fuse(*(probability(of(table), found[f"{name} low"], found[f"{name} high"]) for name, of in MARGINS.items()))


STRATEGY = Strategy(
    key,
    'the largest fusion of reward margin and implicit margin ("Less is More", NeurIPS 2025)',
    logps=("policy", "reference"),
    statistics={
        f"{name} {end}": Statistic("quantile", of, level)
        for name, of in MARGINS.items()
        for end, level in (("low", LOW), ("high", HIGH))
    },
)
