"""What selections of one run share whatever their budget: the quantiles and the first count of the keys.

It lies beside the stage folders, in ``<run>/shared/selection-<hash8>.json``. It saves time and nothing else: absent,
damaged or of other settings, it is computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
        median: of the divergence; NaN where the strategy does not ask for it.
    """

    quantiles: dict[str, float]
    counts: np.ndarray
    median: float = float("nan")


def shared_path(run: StoragePath, key: str) -> StoragePath:
    """Where it lies for the fingerprint of everything but the budget."""
    return run / "shared" / f"selection-{key[:8]}.json"


def read_shared(path: StoragePath, key: str) -> Shared | None:
    """What an earlier selection left, None where there is nothing whole."""
    try:
        value = path.read_json()
        stated = value.pop("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if stated != fingerprint(value) or value["key"] != key:
        return None
    counts = np.zeros(DIGITS, np.int64)
    counts[value["digits"]] = value["counts"]
    quantiles = {aspect: float("nan") if q is None else q for aspect, q in value["quantiles"]}
    return Shared(quantiles, counts, float("nan") if value["median"] is None else value["median"])


def write_shared(path: StoragePath, key: str, shared: Shared) -> None:
    """Leave it for the next selection."""
    digits = np.flatnonzero(shared.counts)
    value: dict[str, Any] = {
        "key": key,
        # JSON has no NaN.
        "quantiles": [[aspect, q if math.isfinite(q) else None] for aspect, q in shared.quantiles.items()],
        "digits": digits.tolist(),
        "counts": shared.counts[digits].tolist(),
        "median": shared.median if math.isfinite(shared.median) else None,
    }
    path.write_json(value | {"digest": fingerprint(value)})
