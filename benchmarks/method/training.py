"""What the comparison does with encoded pairs beside training on them: other labels, and the terms of DFPO."""

from __future__ import annotations

from typing import Any

import numpy as np


def swap(pair: dict[str, Any]) -> dict[str, Any]:
    """An encoded pair labelled the other way round."""
    sides = {"chosen": "rejected", "rejected": "chosen"}
    return pair | {
        name.replace(side, other): value
        for name, value in pair.items()
        for side, other in sides.items()
        if side in name
    }


def with_terms(pairs: list[dict[str, Any]], aspects: list[str], divergence: np.ndarray) -> list[dict[str, Any]]:
    """Encoded pairs with κ and Δφ, all weights 1.

    Args:
        pairs: n of :func:`encode`.
        aspects: n names, of the aspect that labelled each pair; every aspect is among them.
        divergence: (n,) PD.
    """
    from pdray.alignment.dfpo import dfpo_terms

    terms = dfpo_terms(aspects, divergence, dict.fromkeys(aspects, 1.0))
    return [
        pair | {"kappa": float(kappa), "divergence": float(one)} for pair, kappa, one in zip(pairs, *terms, strict=True)
    ]
