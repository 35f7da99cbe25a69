"""Preference divergence beside what the policy knows: −z(PD) − z(|log-probability gap|), the largest first.

Ours, after the alignment potential (Huang et al., ICML 2025, arXiv 2503.01864) with −PD in place of its reward margin:
pairs on which the other aspects agree with the label and which the policy does not tell apart yet. PD does not depend
on a policy, so of the two this is the one that `rounds` can repeat.
"""

import numpy as np

from pdray.selection.strategies.alignment_potential import gap
from pdray.selection.strategy import Strategy, Table, moments, z_scores


def divergence(table: Table) -> np.ndarray:
    """(n,) float64, PD."""
    return table.divergence


def key(table: Table) -> np.ndarray:
    """(n,) float64."""
    found: np.ndarray = z_scores(table, "divergence", table.divergence) + z_scores(table, "gap", gap(table))
    return found


STRATEGY = Strategy(
    key,
    "the most negative divergence beyond what the policy already tells apart (after ICML 2025)",
    logps=("policy",),
    statistics=moments("divergence", divergence) | moments("gap", gap),
)
