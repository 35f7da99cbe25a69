"""Win rates of pairwise comparisons: ties, length control, the paper's average win score. Pure functions.

A comparison has a value: 1 where the policy's answer is the better one, 0 where the baseline's is, 0.5 for a tie, NaN
where the judge failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from pdray.evaluation.accuracy import LEVEL, RESAMPLES, Estimate, estimate

Verdict = Literal["A", "B", "tie"]
POLICY_FIRST: dict[str, float] = {"A": 1.0, "B": 0.0, "tie": 0.5}
RIDGE = 1.0  # a comparison's worth of doubt, so that the weight of length stays finite where length decides everything
NEWTON_STEPS = 60
AT_ONCE = 4_000_000  # numbers in an array of the bootstrap


def value_of(policy_first: Verdict | None, baseline_first: Verdict | None) -> tuple[float, bool]:
    """The value of a comparison that was judged in both orders.

    Args:
        policy_first: the verdict where A was the policy's answer; None where there is none.
        baseline_first: the same where A was the baseline's.

    Returns:
        the value, and whether the verdict changed with the order, which makes it a tie.
    """
    if policy_first is None or baseline_first is None:
        return float("nan"), False
    one, other = POLICY_FIRST[policy_first], 1 - POLICY_FIRST[baseline_first]
    return (one, False) if one == other else (0.5, True)


def values_of_rewards(policy: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(n,) values from the rewards of both answers; equal ones tie, and a reward that is not finite is a failure."""
    with np.errstate(invalid="ignore"):  # of one infinity less another
        margins = policy.astype(np.float64) - baseline.astype(np.float64)
    return np.where(np.isfinite(margins), (np.sign(margins) + 1) / 2, np.nan)


def win_rate(values: np.ndarray, seed: int) -> Estimate:
    """The win rate, ties half, with the percentile interval of a bootstrap over prompts.

    A value is that of both answers to one prompt, so the bootstrap is a paired one.

    Args:
        values: (n,) finite, one a prompt, n > 0.
        seed: of the draws.
    """
    return estimate(values, np.arange(len(values)), seed)


def length_controlled(values: np.ndarray, longer: np.ndarray, seed: int) -> Estimate:
    """The win rate that answers of equal length would have (Dubois et al. 2024, arXiv 2404.04475).

    A logistic regression explains the values by a constant and by tanh(d/s), d being how much longer the policy's
    answer is and s the standard deviation of d; at d = 0 it gives the controlled rate. The paper's third term, how
    difficult each of its own 805 prompts is, needs the verdicts on many models, so it is left out. Where length and
    value do not go together, this is the win rate itself.

    Args:
        values: (n,) finite, n > 0.
        longer: (n,) characters of the policy's answer less those of the baseline's.
        seed: of the draws; the interval is that of a bootstrap over prompts, with s as it is in all of them.
    """
    scale = np.std(longer, ddof=1) if len(longer) > 1 else 0.0
    x = np.tanh(longer / scale) if scale > 0 else np.zeros(len(longer))
    rng = np.random.default_rng(seed)
    size = max(1, AT_ONCE // len(values))
    rates: list[np.ndarray] = []
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        draws = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), count)
        rates.append(_rate_at_equal_length(values, x, draws.astype(np.float64)))
    low, high = np.quantile(np.concatenate(rates), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = _rate_at_equal_length(values, x, np.ones((1, len(values))))[0]
    return Estimate(float(mean), float(low), float(high), len(values))


def _rate_at_equal_length(values: np.ndarray, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(r,) the logistic of the constant, fitted by Newton's method for each row of (r, n) weights."""
    rate = weights @ values / weights.sum(axis=1)
    mixed = (rate > 0) & (rate < 1)  # without one win and one loss the constant is infinite, and the rate that of all
    weights = weights[mixed]
    constant = np.log(rate[mixed] / (1 - rate[mixed]))
    slope = np.zeros_like(constant)
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-(constant[:, None] + slope[:, None] * x)))
        miss = weights * (values - chance)
        bend = weights * chance * (1 - chance)
        g0, g1 = miss.sum(axis=1), miss @ x - RIDGE * slope
        h00, h01, h11 = bend.sum(axis=1), bend @ x, bend @ (x * x) + RIDGE
        determinant = h00 * h11 - h01 * h01
        steps = np.stack([(h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant])
        steps /= np.maximum(1, np.abs(steps).max(axis=0))  # Newton's method may leap where chances are near 0 or 1
        constant, slope = constant + steps[0], slope + steps[1]
        if np.abs(steps).max(initial=0) < 1e-10:
            break
    rate[mixed] = 1 / (1 + np.exp(-constant))
    return np.asarray(rate)


def average_win_score(sets: Mapping[str, np.ndarray], seed: int) -> Estimate:
    """The paper's AW: the mean over sets of prompts of the win score 1 + (wins - losses) / comparisons.

    Where the baseline is OVA's policy, OVA itself has 1, and 2 is to win always.

    Args:
        sets: the finite values of each set, one or more.
        seed: of the draws; the interval is that of a bootstrap over the prompts of each set.
    """
    rng = np.random.default_rng(seed)
    scores = np.mean([2 * _resampled(values, rng) for values in sets.values()], axis=0)
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(np.mean([2 * np.mean(values) for values in sets.values()]))
    return Estimate(mean, float(low), float(high), sum(map(len, sets.values())))


def _resampled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(resamples,) means of as many values, drawn with replacement: of equal ones only how many were drawn counts."""
    distinct, counts = np.unique(values, return_counts=True)
    means: np.ndarray = rng.multinomial(len(values), counts / len(values), RESAMPLES) @ distinct / len(values)
    return means
