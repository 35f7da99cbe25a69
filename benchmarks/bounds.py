"""When does the most negative divergence have the lowest bounds of L_DFPO (theorems 3.4 and 3.5)? By enumeration.

    python -m benchmarks.bounds --out benchmarks/results/bounds.json

Random rewards of 10 pairs are normalised to [0, r]. For each of the 120 subsets of 3 pairs both bounds are computed.
The table has the share of draws in which no subset has a lower one than the pairs with the most negative PD.

What is the paper's: L_DFPO = −E log σ(κM + Δφ), rewards in [0, r] and with them Δφ in [−(κ−1)r, (κ−1)r], and the claim
that under 2(κ−1)r/κ ≤ c₂ − c₀ the subset with the most negative PD minimises both bounds. What c₀ and c₂ bound is in no
public summary.

What is derived here: the loss is taken over all pairs, after a training on some of them. The policy margin M of a pair
that was left out is in [c₀, c₁], that of a pair trained on in [c₂, c₃], whichever pairs these are. −log σ falls in M,
so either bound has every M at an end of its interval. Taking a pair into the subset lowers the upper bound by g(Δφ) =
ℓ(κc₀ + Δφ) − ℓ(κc₂ + Δφ) with ℓ = −log σ, the lower one alike with c₁ and c₃. ℓ is convex, so g falls in Δφ where
c₀ ≤ c₂, and the most negative PDs bring most. That needs c₀ ≤ c₂ and c₁ ≤ c₃ (training raises the margins) and no more.
In these terms the paper's condition says that κ(c₂ − c₀) is at least the largest difference of two PDs: every logit
κM + Δφ of the upper bound is higher inside the subset than outside. That is enough, but the claim holds without it;
whether the paper's bounds are others, which need it, cannot be told from what is public.

The loss of the subset alone, its M in one interval, is another reading. There the claim is false: −log σ(κM + Δφ) falls
in Δφ too, so the most positive PDs have the lowest bounds. The last column counts where the most negative have.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_result
from pdray.selection.divergence import preference_divergence

PAIRS, KEPT, DRAWS = 10, 3, 500
ROUNDING = 1e-12


@dataclass(frozen=True)
class Ends:
    """Where policy margins lie after a training.

    Attributes:
        out: c₀ and c₁, lowest and highest M of a pair that was left out.
        trained: c₂ and c₃, of a pair that was trained on.
    """

    out: tuple[float, float]
    trained: tuple[float, float]


def normalised_rewards(rewards: np.ndarray, most: float) -> np.ndarray:
    """Rewards of each aspect moved and stretched to [0, r]; an aspect whose rewards are all the same gives 0.

    Args:
        rewards: (n, 2, κ), of the chosen and rejected response of each pair.
        most: r > 0.
    """
    low, high = rewards.min(axis=(0, 1)), rewards.max(axis=(0, 1))
    span = np.where(high > low, high - low, 1.0)
    # The largest quotient is 1, but r times it may round above r.
    return np.clip((rewards - low) / span * most, 0.0, most)


def divergence_of(rewards: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Δφ of each pair, (n,), in [−(κ−1)r, (κ−1)r] for rewards (n, 2, κ) in [0, r]; ``own`` labelled it."""
    return preference_divergence(rewards[:, 0] - rewards[:, 1], own)


def dfpo_loss(margin: np.ndarray | float, divergence: np.ndarray, kappa: int) -> np.ndarray:
    """ℓ(κM + Δφ) = −log σ(κM + Δφ) = log(1 + exp(−κM − Δφ)) of each pair, in nats."""
    loss: np.ndarray = np.logaddexp(0.0, -(kappa * margin + divergence))
    return loss


def loss_bounds(divergence: np.ndarray, trained: np.ndarray, kappa: int, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound of the mean loss over all pairs after a training on some (theorem 3.4, in this reading).

    Args:
        divergence: (n,) Δφ.
        trained: (..., n) bool, any number of subsets.
        kappa: κ.
        ends: where M lies.

    Returns:
        two arrays (...).
    """
    inside, outside = (
        [dfpo_loss(margin, divergence, kappa) for margin in margins] for margins in (ends.trained, ends.out)
    )
    upper, lower = (np.where(trained, inside[end], outside[end]).mean(axis=-1) for end in (0, 1))
    return lower, upper


def subset_bounds(divergence: np.ndarray, trained: np.ndarray, kappa: int, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """The same of the mean loss over the pairs trained on alone, the reading in which theorem 3.5 is false."""
    size = trained.sum(axis=-1)
    losses = [dfpo_loss(margin, divergence, kappa) for margin in ends.trained]
    upper, lower = ((trained * loss).sum(axis=-1) / size for loss in losses)
    return lower, upper


def meets_condition(kappa: int, most: float, ends: Ends) -> bool:
    """The condition of theorem 3.5: 2(κ−1)r/κ ≤ c₂ − c₀."""
    return 2 * (kappa - 1) * most / kappa <= ends.trained[0] - ends.out[0]


def subsets(num_pairs: int, size: int) -> np.ndarray:
    """Every subset of a size, (s, n) bool."""
    return np.array([np.isin(np.arange(num_pairs), one) for one in combinations(range(num_pairs), size)])


def most_negative(divergence: np.ndarray, size: int) -> np.ndarray:
    """The pairs with the most negative PD, (n,) bool; among ties the first ones."""
    chosen = np.zeros(len(divergence), bool)
    chosen[np.argsort(divergence, kind="stable")[:size]] = True
    return chosen


def is_lowest(bound: float, bounds: np.ndarray) -> bool:
    """Whether none of the other bounds is lower, but for rounding."""
    return bool(bound <= bounds.min() + ROUNDING)


def _have_lowest(bounds: Any, divergence: np.ndarray, ours: np.ndarray, every: np.ndarray, *rest: Any) -> list[bool]:
    pairs = zip(bounds(divergence, ours, *rest), bounds(divergence, every, *rest), strict=True)
    return [is_lowest(one, others) for one, others in pairs]


def measure(kappa: int, raised: float, seed: int = 0) -> dict[str, Any]:
    """Shares of draws in which the most negative PDs have the lowest bounds.

    Args:
        kappa: κ.
        raised: c₂ − c₀ = c₃ − c₁ as a multiple of 2(κ−1)r/κ, with r = 1.
        seed: of the rewards.
    """
    rng, every = np.random.default_rng(seed), subsets(PAIRS, KEPT)
    step = raised * 2 * (kappa - 1) / kappa
    ends = Ends((-0.5, 0.5), (-0.5 + step, 0.5 + step))
    found = {"lower": 0, "upper": 0, "of the subset alone": 0}
    for _ in range(DRAWS):
        rewards = normalised_rewards(rng.normal(size=(PAIRS, 2, kappa)), 1.0)
        divergence = divergence_of(rewards, rng.integers(0, kappa, PAIRS))
        ours = most_negative(divergence, KEPT)
        lower, upper = _have_lowest(loss_bounds, divergence, ours, every, kappa, ends)
        found["lower"] += lower
        found["upper"] += upper
        found["of the subset alone"] += all(_have_lowest(subset_bounds, divergence, ours, every, kappa, ends))
    shares = {name: count / DRAWS for name, count in found.items()}
    return {"kappa": kappa, "raised": raised, "condition": meets_condition(kappa, 1.0, ends), **shares}


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [measure(kappa, raised) for kappa in (2, 4) for raised in (-0.5, 0.0, 0.1, 0.5, 1.0, 2.0)]
    print(f"{'κ':>2}{'c₂ − c₀ in 2(κ−1)r/κ':>24}{'condition':>12}{'lower':>8}{'upper':>8}{'of the subset alone':>22}")
    for row in rows:
        print("{kappa:2}{raised:24}{condition!s:>12}{lower:8.2f}{upper:8.2f}{of the subset alone:22.2f}".format(**row))
    write_result(args.out, "bounds of L_DFPO", {"pairs": PAIRS, "kept": KEPT, "draws": DRAWS}, rows)


if __name__ == "__main__":
    main()
