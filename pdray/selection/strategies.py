"""What each strategy sorts by: the pairs with the smallest key are kept (METHOD: what the paper compares)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pdray.hashing import uniform

Ids = Callable[[], list[str]]


def _lowest(divergence: np.ndarray, ids: Ids, seed: int) -> np.ndarray:
    return divergence


def _highest(divergence: np.ndarray, ids: Ids, seed: int) -> np.ndarray:
    return -divergence


def _random(divergence: np.ndarray, ids: Ids, seed: int) -> np.ndarray:
    return random_keys(ids(), seed)


def random_keys(pair_ids: list[str], seed: int) -> np.ndarray:
    """RAND: a seeded number in [0, 1) per pair, (n,) float64."""
    return uniform(pair_ids, f"{seed} random")


STRATEGIES: dict[str, Callable[[np.ndarray, Ids, int], np.ndarray]] = {
    "pd": _lowest,
    "pd_high": _highest,
    "random": _random,
}


def sort_key(strategy: str, divergence: np.ndarray, ids: Ids, seed: int) -> np.ndarray:
    """The key of each pair under a strategy.

    Args:
        strategy: a name in :data:`STRATEGIES`.
        divergence: (n,) float64 PD.
        ids: gives the n ids; called only by a strategy that looks at them, as they are slow to read and hash.
        seed: of random strategies.

    Returns:
        (n,) float64, never −0.0; NaN where the PD is, whatever the strategy, so that all choose among the same pairs.
    """
    keys = STRATEGIES[strategy](divergence, ids, seed)
    return np.where(np.isnan(divergence), np.nan, keys) + 0.0
