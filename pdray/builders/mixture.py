"""Which candidate pairs make a data set with a given share of conflicts. Pure functions on narrow arrays."""

from __future__ import annotations

import numpy as np

from pdray.errors import UserError

TOLERANCE = 0.005  # half a percentage point
AGREES, CONFLICTS, UNKNOWN = 0, 1, -1


def choose(
    keys: np.ndarray, aspects: np.ndarray, states: np.ndarray, level: float | None, pairs: int | None
) -> np.ndarray:
    """Mark the pairs that are kept: as many as the level allows, their labels spread evenly over the aspects.

    Within the conflicting and the agreeing pairs each aspect gives the same number, or all that it has where it has
    fewer; those with the smallest keys.

    Args:
        keys: (n,) uint64, a seeded hash of each pair, all different.
        aspects: (n,) int, the aspect that labels each.
        states: (n,) int, one of AGREES, CONFLICTS, UNKNOWN.
        level: share of conflicts, in [0, 1]; None leaves the share as it is, and unknown pairs in.
        pairs: how many to keep; None for all that there are.

    Returns:
        (n,) bool.

    Raises:
        UserError: the pairs cannot reach the level, or are fewer than were asked for.
    """
    kept = np.zeros(len(keys), bool)
    if level is None:
        if pairs is not None and pairs > len(keys):
            raise UserError(f"the data gives {len(keys):,} pairs, but --pairs is {pairs:,}; lower it")
        quotas = [(np.ones(len(keys), bool), len(keys) if pairs is None else pairs)]
    else:
        conflicting, agreeing = (states == CONFLICTS), (states == AGREES)
        total = size_at(int(conflicting.sum()), int(agreeing.sum()), level, pairs)
        quotas = [(conflicting, round(level * total)), (agreeing, total - round(level * total))]
    for of_state, quota in quotas:
        supply = np.bincount(aspects[of_state], minlength=int(aspects.max(initial=0)) + 1)
        for aspect, count in enumerate(even_shares(supply, quota)):
            rows = np.flatnonzero(of_state & (aspects == aspect))
            kept[rows[np.argsort(keys[rows], kind="stable")[:count]]] = True
    return kept


def size_at(conflicting: int, agreeing: int, level: float, pairs: int | None) -> int:
    """The most pairs with that share of conflicts, to within half a percentage point; ``pairs`` where it is given.

    Raises:
        UserError: there is no such number, or not so many.
    """
    there = conflicting + agreeing
    by_conflicts = conflicting / level + 1e-9 if level > 0 else there
    by_agreements = agreeing / (1 - level) + 1e-9 if level < 1 else there
    most = int(min(by_conflicts, by_agreements, there))
    if pairs is not None and pairs > most:
        raise UserError(
            f"--conflict {level:g} can be met with at most {most:,} pairs ({conflicting:,} of the data conflict, "
            f"{agreeing:,} agree), but --pairs is {pairs:,}; lower it, or take a level nearer to the data's own "
            f"{_share(conflicting, agreeing)}"
        )
    sizes = range(most, 0, -1) if pairs is None else [pairs]
    fitting = next((size for size in sizes if abs(round(level * size) / size - level) <= TOLERANCE), None)
    if fitting is None:
        raise UserError(
            f"--conflict {level:g} cannot be met to within half a percentage point with {pairs or most:,} pairs "
            f"({conflicting:,} of the data conflict, {agreeing:,} agree); give more data, or take a level nearer to "
            f"its own {_share(conflicting, agreeing)}"
        )
    return fitting


def _share(conflicting: int, agreeing: int) -> str:
    return f"{conflicting / max(conflicting + agreeing, 1):.1%}"


def even_shares(supply: np.ndarray, total: int) -> np.ndarray:
    """Split a number evenly, but give none more than it has; what one cannot take goes to the others.

    Args:
        supply: (κ,) int, the most of each.
        total: at most their sum.

    Returns:
        (κ,) int, with that sum; shares that are not limited by the supply differ by 1 at most.
    """
    assert total <= supply.sum()
    shares = np.zeros(len(supply), np.int64)
    left = total
    by_supply = np.argsort(supply, kind="stable")
    for place, index in enumerate(by_supply):
        shares[index] = min(int(supply[index]), left // (len(supply) - place))
        left -= int(shares[index])
    return shares
