"""What selections of one run share whatever their budget: the quantiles, statistics and first count of the keys.

It lies beside the stage folders, in ``<run>/shared/selection-<hash8>.json``. It saves time and nothing else: absent,
damaged or of other settings, it is computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pdray.selection.radix import DIGITS
from pdray.storage import StoragePath
from pdray.store import fingerprint


@dataclass(frozen=True)
class Shared:
    """What another budget would find too.

    Attributes:
        quantiles: aspect -> q of eq. 13; NaN where an aspect has no finite margin.
        counts: (65536,) int64, pairs by the first digit of their key.
        statistics: those that the strategy asks for; NaN where no pair has what they are of.
    """

    quantiles: dict[str, float]
    counts: np.ndarray
    statistics: dict[str, float] = field(default_factory=dict)


def shared_path(run: StoragePath, key: str) -> StoragePath:
    """Where it lies for the fingerprint of everything but the budget."""
    return run / "shared" / f"selection-{key[:8]}.json"


def read_shared(path: StoragePath, key: str) -> Shared | None:
    """What an earlier selection left, None where there is nothing whole."""
    try:
        value = path.read_json()
        stated = value.pop("digest")
        statistics = value["statistics"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if stated != fingerprint(value) or value["key"] != key:
        return None
    counts = np.zeros(DIGITS, np.int64)
    counts[value["digits"]] = value["counts"]
    return Shared(_from_pairs(value["quantiles"]), counts, _from_pairs(statistics))


def _from_pairs(pairs: list[Any]) -> dict[str, float]:
    return {name: float("nan") if number is None else number for name, number in pairs}


def _as_pairs(numbers: dict[str, float]) -> list[Any]:
    # In their order, which JSON objects do not promise; JSON has no NaN either.
    return [[name, number if math.isfinite(number) else None] for name, number in numbers.items()]


def write_shared(path: StoragePath, key: str, shared: Shared) -> None:
    """Leave it for the next selection."""
    digits = np.flatnonzero(shared.counts)
    value: dict[str, Any] = {
        "key": key,
        "quantiles": _as_pairs(shared.quantiles),
        "digits": digits.tolist(),
        "counts": shared.counts[digits].tolist(),
        "statistics": _as_pairs(shared.statistics),
    }
    path.write_json(value | {"digest": fingerprint(value)})
