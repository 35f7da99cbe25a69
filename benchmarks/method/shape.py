"""Does the shape of the paper's results hold? Each of its lines as a contrast of means with an interval, and a verdict.

Pure functions. A figure of a run is a value for each held-out pair: right or wrong, won or lost. All runs of a seed
judge the same pairs, so a contrast is paired: it is taken pair by pair before anything is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pdray.evaluation.accuracy import LEVEL, RESAMPLES, Estimate

HOLDS, FAILS, OPEN = "holds", "does not", "cannot be told"
TOLERANCE = 0.02  # so far apart, two figures still count as alike


@dataclass(frozen=True)
class Key:
    """Which runs: one for each seed.

    Attributes:
        level: which corpus: the share of conflicts in the demo's world, or the name of a data set.
        strategy: how pairs were selected, and trained on.
        setting: what differs from the defaults; empty for nothing.
    """

    level: float | str
    strategy: str
    setting: str = ""


@dataclass(frozen=True)
class Claim:
    """A line of the paper.

    Attributes:
        text: what it says.
        terms: weights of the means that make its contrast.
        alike: whether the contrast should be within ± :data:`TOLERANCE`; else it should be above 0.
    """

    text: str
    terms: Mapping[Key, float]
    alike: bool = False


def resampled(values: np.ndarray, prompts: np.ndarray, seed: int) -> Estimate:
    """The mean of some values, with the percentile interval of a bootstrap of seeds and of prompts within a seed.

    With three seeds the spread between seeds is itself known badly, and the interval is rather too narrow.

    Args:
        values: (seeds, pairs) finite.
        prompts: (seeds, pairs) int, equal for pairs of one prompt, which are drawn together.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    num_seeds = len(values)
    drawn = rng.integers(num_seeds, size=(RESAMPLES, num_seeds))
    of_drawn = np.empty(drawn.shape)
    for row, (one, of_prompt) in enumerate(zip(values, prompts, strict=True)):
        sums, sizes = np.bincount(of_prompt, one), np.bincount(of_prompt)
        # Prompts that are alike are drawn together: how many of them is all that a mean needs.
        alike, counts = np.unique(np.stack([sums, sizes], axis=1)[sizes > 0], axis=0, return_counts=True)
        draws = rng.multinomial(counts.sum(), counts / counts.sum(), drawn.shape)
        of_drawn[drawn == row] = (draws @ alike[:, 0] / (draws @ alike[:, 1]))[drawn == row]
    means = of_drawn.mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values.mean()), float(low), float(high), values.size)


def contrast(
    values: Mapping[Key, np.ndarray], terms: Mapping[Key, float], prompts: np.ndarray, seed: int = 0
) -> Estimate:
    """The weighted sum of some means with its interval.

    Args:
        values: (seeds, pairs) of each key; the same seeds and pairs for all.
        terms: weight of each key.
        prompts, seed: see :func:`resampled`.
    """
    total = sum(weight * values[key] for key, weight in terms.items())
    assert isinstance(total, np.ndarray), "a contrast has terms"
    return resampled(total, prompts, seed)


def verdict(found: Estimate, alike: bool) -> str:
    """What an interval says of a claim.

    Args:
        found: of its contrast.
        alike: see :class:`Claim`.
    """
    if alike:
        if found.low >= -TOLERANCE and found.high <= TOLERANCE:
            return HOLDS
        return FAILS if found.low > TOLERANCE or found.high < -TOLERANCE else OPEN
    return HOLDS if found.low > 0 else FAILS if found.high < 0 else OPEN


def claims(levels: list[float], sweep_level: float) -> list[Claim]:
    """The lines of the paper (docs/method.md: variants, and what the paper reports).

    Args:
        levels: of conflict, rising.
        sweep_level: at which settings were varied.
    """
    found = []
    for level in levels:
        pd = Key(level, "pd")
        for other, name in (("random", "RAND"), ("all", "ALL"), ("raf", "RAF")):
            found.append(Claim(f"at {level:.0%} PD beats {name}", {pd: 1, Key(level, other): -1}))
    low, high = levels[0], levels[-1]
    if low != high:
        gap = {Key(high, "pd"): 1.0, Key(high, "all"): -1.0, Key(low, "pd"): -1.0, Key(low, "all"): 1.0}
        found.append(Claim(f"PD's lead over ALL is larger at {high:.0%} than at {low:.0%}", gap))
    found += [
        Claim("DFPO is nearer to PD than to ALL, or beyond PD", _mean(levels, {"dfpo": 1, "pd": -0.5, "all": -0.5})),
        Claim("DFPO beats ALL", _mean(levels, {"dfpo": 1, "all": -1})),
        Claim("PD beats OVA", _mean(levels, {"pd": 1, "overall": -1})),
        Claim("PD beats AVG", _mean(levels, {"pd": 1, "mean_rating": -1})),
        Claim("PD beats PD (rati.)", _mean(levels, {"pd": 1, "pd_ratings": -1})),
        Claim("PD (nl) is below PD", _mean(levels, {"pd": 1, "pd_nl": -1})),
        Claim("PD beats DFPO", _mean(levels, {"pd": 1, "dfpo": -1})),
        Claim("PD (high) is below SFT", _mean(levels, {"sft": 1, "pd_high": -1})),
        Claim("PD (mid) is below PD", _mean(levels, {"pd": 1, "pd_mid": -1})),
    ]
    default = Key(sweep_level, "pd")
    for setting in ("γ = 1.0", "ρ = 0.0"):
        found.append(Claim(f"{setting} is below the default", {default: 1, Key(sweep_level, "pd", setting): -1}))
    for setting in ("γ = 0.7", "ρ = 0.03", "τ = 0.3", "p_r = 0.5", "proxy size = 32", "proxy size = 128"):
        found.append(Claim(f"{setting} is like the default", {default: 1, Key(sweep_level, "pd", setting): -1}, True))
    return found


def claims_of_data(names: list[str]) -> list[Claim]:
    """The lines of the paper that a data set can bear out, whose share of conflicts is what it is.

    Args:
        names: of the data sets.
    """
    lines = {
        "PD beats RAND": ("pd", "random"),
        "PD beats ALL": ("pd", "all"),
        "DFPO beats ALL": ("dfpo", "all"),
        "PD beats DFPO": ("pd", "dfpo"),
        "PD (high) is below SFT": ("sft", "pd_high"),
        "PD (mid) is below PD": ("pd", "pd_mid"),
    }
    return [
        Claim(f"{name}: {line}", {Key(name, one): 1, Key(name, other): -1})
        for name in names
        for line, (one, other) in lines.items()
    ]


def _mean(levels: list[float], weights: dict[str, float]) -> dict[Key, float]:
    return {Key(level, strategy): weight / len(levels) for level in levels for strategy, weight in weights.items()}
