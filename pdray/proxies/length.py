"""The two remedies against length bias, as pure functions (docs/method.md: balanced sampling, eq. 16 and 17).

Rewards tend to grow with the length of a response whatever its aspect. Balanced sampling evens out how often
the longer response is the chosen one; the penalty takes ρ per token of length difference out of the margin.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pdray.hashing import hash64
from pdray.proxies.quality import rank_correlation

Form = Literal["eq16", "residual"]
BISECTIONS = 60


def hash_order(pair_ids: list[str], seed: int, purpose: str) -> np.ndarray:
    """Positions of the pairs in a random order that depends on their ids and the seed alone.

    Args:
        pair_ids: n ids, in any order.
        seed: seed of the run.
        purpose: another purpose gives an independent order.

    Returns:
        (n,) int64, a permutation of positions; equal hashes are ordered by id.
    """
    hashes = hash64(pair_ids, f"{seed}/{purpose}").tolist()
    return np.array(sorted(range(len(pair_ids)), key=lambda i: (hashes[i], pair_ids[i])), dtype=np.int64)


def balanced_share(fraction_longer: float, temperature: float) -> float:
    """Share of draws that go to D⁺, the pairs whose chosen response is at least as long.

    ``exp(f⁺/τ) / (exp(f⁺/τ) + exp(f⁻/τ))`` with f⁻ = 1 − f⁺. A large τ draws both sides alike, a small one
    almost only the larger side.

    Args:
        fraction_longer: f⁺ in [0, 1].
        temperature: τ > 0.
    """
    difference = (1.0 - 2.0 * fraction_longer) / temperature
    return float(1.0 / (1.0 + np.exp(min(difference, 700.0))))


def balance_weights(length_difference: np.ndarray, temperature: float | None) -> np.ndarray:
    """How often balanced sampling draws each of n pairs, in the mean of n draws: f̂⁺/f⁺ for D⁺ and f̂⁻/f⁻ for D⁻.

    A convex fit on weighted pairs is the fit on infinitely many balanced draws of them; :func:`draw` is for
    trainers that take no weights. An empty side leaves all weights at 1.

    Args:
        length_difference: (n,) tokens, len(chosen) − len(rejected).
        temperature: τ, or None for weights of 1.

    Returns:
        (n,) float64 that sum to n.
    """
    is_longer = np.asarray(length_difference) >= 0
    fraction = float(is_longer.mean()) if len(is_longer) else 0.0
    if temperature is None or fraction in (0.0, 1.0):
        return np.ones(len(is_longer))
    share = balanced_share(fraction, temperature)
    return np.where(is_longer, share / fraction, (1.0 - share) / (1.0 - fraction))


def draw(
    pair_ids: list[str], length_difference: np.ndarray, count: int, temperature: float | None, seed: int
) -> np.ndarray:
    """Draw training pairs, balanced by length where τ is given.

    Each side gives its pairs in hash order, so without replacement as long as they last. A side that is asked for
    more than it has starts over, so that no pair of it is drawn twice more often than another. An empty
    side leaves all draws to the other.

    Args:
        pair_ids: n ids.
        length_difference: (n,) tokens, len(chosen) − len(rejected).
        count: draws, at least 0.
        temperature: τ, or None to draw from all pairs alike.
        seed: seed of the run.

    Returns:
        (count,) int64 positions, independent of the order in which the pairs are given up to that order itself.
    """
    order = hash_order(pair_ids, seed, "sample")
    if temperature is None:
        return _cycled(order, count)
    is_longer = np.asarray(length_difference)[order] >= 0
    longer, shorter = order[is_longer], order[~is_longer]
    if not len(longer) or not len(shorter):
        return _cycled(order, count)
    num_longer = int(np.floor(balanced_share(len(longer) / len(order), temperature) * count + 0.5))
    return np.concatenate([_cycled(longer, num_longer), _cycled(shorter, count - num_longer)])


def _cycled(order: np.ndarray, count: int) -> np.ndarray:
    return np.resize(order, count) if len(order) else order[:0]


def training_margin(length_difference: np.ndarray, penalty: float, form: Form) -> np.ndarray:
    """What the loss subtracts from Δr: −log σ(Δr − margin).

    Args:
        length_difference: (n,) tokens, Δlen.
        penalty: ρ, reward per token.
        form: ``eq16`` fits Δr − ρΔlen, ``residual`` fits Δr + ρΔlen.

    Returns:
        (n,) float64.
    """
    sign = 1.0 if form == "eq16" else -1.0
    return sign * penalty * np.asarray(length_difference, dtype=np.float64)


def uncorrelated_penalty(length_difference: np.ndarray, reward_margin: np.ndarray) -> float:
    """ρ at which margins do not go with length: Spearman's rank correlation of Δlen and Δr − ρΔlen is 0.

    The correlation falls in steps as ρ grows, so this is where it changes its sign. Negative where shorter responses
    are rewarded.

    Args:
        length_difference: (n,) tokens, Δlen.
        reward_margin: (n,) Δr, finite.

    Returns:
        ρ; 0.0 where lengths or margins do not differ.
    """
    lengths, margins = np.asarray(length_difference, np.float64), np.asarray(reward_margin, np.float64)
    if len(lengths) < 2 or np.ptp(lengths) == 0 or np.ptp(margins) == 0:
        return 0.0
    # No two pairs change their order outside these: lengths are whole numbers, so they differ by 1 or more.
    low, high = -np.ptp(margins) - 1.0, np.ptp(margins) + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if (rank_correlation(lengths, margins - middle * lengths) or 0.0) > 0:
            low = middle
        else:
            high = middle
    return float(high)


def scoring_penalty(penalty: float, form: Form) -> float:
    """ρ that the margin of eq. 17 subtracts at scoring time: Δr − ρΔlen for ``eq16``, Δr alone for ``residual``."""
    return penalty if form == "eq16" else 0.0
