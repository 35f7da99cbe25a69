"""Alignment potential z(reward margin) − w·z(|log-probability gap|), the largest first ("Larger or Smaller Reward
Margins to Select Preferences for LLM Alignment?", Huang et al., ICML 2025, arXiv 2503.01864).

As in the authors' code w is 1, and the gap is that of the policy's mean log-probabilities of a token. Their reward
margin is that of one reward model; here it is that of the aspect that labelled the pair.
"""

import numpy as np

from pdray.selection.strategy import Strategy, Table, moments, z_scores

WEIGHT = 1.0


def margin(table: Table) -> np.ndarray:
    """(n,) float64, the explicit reward margin."""
    return table.own_margins


def gap(table: Table) -> np.ndarray:
    """(n,) float64 ≥ 0, how far the policy already tells the responses apart, in nats per token."""
    size: np.ndarray = np.abs(table.logps.gap_per_token("policy"))
    return size


def key(table: Table) -> np.ndarray:
    """(n,) float64, minus the alignment potential."""
    potential: np.ndarray = z_scores(table, "margin", margin(table)) - WEIGHT * z_scores(table, "gap", gap(table))
    return -potential


STRATEGY = Strategy(
    key,
    "the largest alignment potential: the reward margin beyond what the policy already tells apart (ICML 2025)",
    logps=("policy",),
    statistics=moments("margin", margin) | moments("gap", gap),
)
