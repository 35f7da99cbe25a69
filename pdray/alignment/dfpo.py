"""What a pair brings to DFPO: κ and Δφ of −log σ(κM + Δφ) (docs/method.md, from an objective to a number).

Maximising Σ_j w_j r_j / Σ_j w_j under a KL penalty gives Σ_j w_j Δr_j = (Σ_j w_j) M. For a pair that aspect k labelled
this is Δr_k = ((Σ_j w_j) M + PD) / w_k with PD = −Σ_{j≠k} w_j Δr_j. With all weights 1 it is the paper's κM + PD; for
other weights it is derived here, since the paper has none.

PD is the estimate that the selection ordered by: margins scaled by a quantile and clipped (eq. 13-15), not in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REFERENCE_LOSS = "reference_loss"  # what the reference has on the pairs of a step, in the log: −log σ(Δφ), as M is 0
REFERENCE_SLOPE = "reference_slope"  # beside it: how fast that loss falls with M, κσ(−Δφ); 1/2 for DPO


def dfpo_terms(
    aspects: Sequence[str], divergence: np.ndarray, weights: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """κ and Δφ of some pairs, Σ_j w_j / w_k and PD / w_k.

    Args:
        aspects: n names, of the aspect that labelled each pair.
        divergence: (n,) float64, PD, the weighted sum that the selection wrote.
        weights: aspect -> w ≥ 0, of all κ aspects.

    Returns:
        two arrays (n,) float32; NaN where the pair's own aspect has weight 0, whose labels say nothing of M.
    """
    own = np.array([weights[aspect] or np.nan for aspect in aspects], np.float64)
    return (sum(weights.values()) / own).astype(np.float32), (divergence / own).astype(np.float32)
