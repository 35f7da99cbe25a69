"""RAND: a seeded draw."""

from __future__ import annotations

import numpy as np

from pdray.hashing import uniform
from pdray.selection.strategy import Strategy


def random_keys(pair_ids: list[str], seed: int) -> np.ndarray:
    """A seeded number in [0, 1) per pair, (n,) float64."""
    return uniform(pair_ids, f"{seed} random")


STRATEGY = Strategy(lambda table: random_keys(table.ids, table.seed), "a seeded draw, the paper's RAND")
