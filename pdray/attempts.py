"""A training under Ray Train that is started again after failures, as long as it comes further."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdray.errors import reason, user_errors


def repeat(
    attempt: Callable[[], None], reached: Callable[[], Any], max_failures: int, told: Callable[[str], None], name: str
) -> None:
    """Attempt a training until it ends.

    Ray Train counts failures, not what came between them; so each attempt is a run that fails at its first one.

    Args:
        attempt: trains from the last checkpoint on.
        reached: how far the training has come, as the storage has it; larger is further.
        max_failures: attempts in a row, beyond the first of them, that may bring nothing.
        told: is called with the reason after a failure that is followed by another attempt.
        name: of the training, for the message.

    Raises:
        UserError: what a worker refused.
        RuntimeError: more than ``max_failures`` attempts in a row came no further; the message holds the last reason.
    """
    import ray.train

    in_vain = 0
    while True:
        before = reached()
        try:
            with user_errors():
                attempt()
            return
        except ray.train.TrainingFailedError as error:
            in_vain = 0 if reached() > before else in_vain + 1
            if in_vain > max_failures:
                raise RuntimeError(f"{name} failed: {reason(error)}") from error
            told(reason(error))
