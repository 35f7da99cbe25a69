"""Texts that an engine cannot score: found by halving, set aside as NaN, bounded in number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pdray.engines.engine import Rewards
from pdray.errors import UserError
from pdray.shards import error_text


class TooManyFailedError(RuntimeError):
    """More texts failed than the config allows."""


class EngineBrokenError(RuntimeError):
    """The engine raises for texts that are not to blame, so its process is of no more use."""


def score_around(
    score: Callable[[list[int]], Rewards], texts: list[int], most: int
) -> tuple[dict[int, Rewards], dict[int, str]]:
    """Score texts, and where an exception comes out, halve them until the texts that cause it are alone.

    Args:
        score: scores some of the texts, in their order; raises for all of them if it raises for one.
        texts: their numbers.
        most: how many may fail.

    Returns:
        the rewards of each text, by its number; the reason of each that failed, by its number.

    Raises:
        TooManyFailedError: more than ``most`` failed; the message has one reason.
        UserError: as raised by ``score``.
    """
    rewards: dict[int, Rewards] = {}
    failed: dict[int, str] = {}
    pending = [texts] if texts else []
    while pending:
        part = pending.pop()
        try:
            rewards.update(zip(part, score(part), strict=True))
            continue
        except UserError:
            raise
        except Exception as error:
            reason = error_text(error)
        if len(part) > 1:
            pending += [part[len(part) // 2 :], part[: len(part) // 2]]
            continue
        failed[part[0]] = reason
        if len(failed) > most:
            raise TooManyFailedError(f"more than {most} texts cannot be scored: {reason}")
    return rewards, failed


def find_killers(survives: Callable[[int, int], bool], num_texts: int, most: int) -> list[int]:
    """The texts of a shard that take their process down, found by halving.

    Args:
        survives: whether a process lives through the texts from a number up to, not including, another.
        num_texts: of the shard.
        most: how many may be found.

    Returns:
        their numbers, ascending; empty where the whole shard was survived.

    Raises:
        TooManyFailedError: there are more than ``most``.
    """
    found: list[int] = []
    pending = [(0, num_texts)] if num_texts else []
    while pending:
        start, stop = pending.pop()
        if survives(start, stop):
            continue
        if stop - start > 1:
            middle = (start + stop) // 2
            pending += [(middle, stop), (start, middle)]
            continue
        found.append(start)
        if len(found) > most:
            raise TooManyFailedError(f"more than {most} texts take their process down")
    return found


def as_matrix(rewards: dict[int, Rewards], num_texts: int, num_labels: int) -> Rewards:
    """(num_texts, num_labels) float32 from rows by number, NaN where there is none."""
    matrix = np.full((num_texts, num_labels), np.nan, np.float32)
    if rewards:
        matrix[list(rewards)] = list(rewards.values())
    return matrix
