"""How the pairs of several aspects that train one model share its steps. Pure functions.

Every aspect gets as many draws as any other, and every batch holds all of them in like number: a shared backbone would
otherwise serve the aspect that labelled most pairs.
"""

from __future__ import annotations

import math

import numpy as np

MOST_REPEATS = 4  # of a pair in one epoch: a head that sees few pairs again and again learns them by heart


def even_draws(counts: list[int]) -> list[int]:
    """Draws of each aspect in one epoch: its even share of all pairs, at most :data:`MOST_REPEATS` times its own.

    Args:
        counts: pairs of each aspect; one aspect alone draws each of its pairs once.
    """
    share = math.ceil(sum(counts) / len(counts))
    return [min(share, MOST_REPEATS * count) for count in counts]


def training_order(aspect: np.ndarray, epochs: float, seed: int) -> np.ndarray:
    """The rows in the order in which they are trained on, all epochs one after the other.

    In every epoch each row comes once, and the rows of an aspect are spread over it at even distances, in a random
    order of their own.

    Args:
        aspect: (n,) int, of each row.
        epochs: passes over the rows; the last one may be a part.
        seed: of the order.

    Returns:
        (⌈n · epochs⌉,) int64.
    """
    passes = [spread(aspect, np.random.default_rng([seed, epoch])) for epoch in range(math.ceil(epochs))]
    order: np.ndarray = np.concatenate(passes)[: math.ceil(len(aspect) * epochs)]
    return order


def spread(aspect: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """One epoch of :func:`training_order`, (n,) int64."""
    rows, places = [], []
    for number in np.unique(aspect):
        own = draw.permutation(np.flatnonzero(aspect == number))
        rows.append(own)
        places.append((np.arange(len(own)) + 0.5) / len(own))
    order: np.ndarray = np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")]
    return order
