"""What is reported of a proxy: accuracy with its interval, length bias, agreement with the others. Pure functions."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

BINS = 10
Z95 = 1.959963984540054  # two-sided 95% of a standard normal


def accuracy(margin: np.ndarray) -> float | None:
    """Share of pairs whose chosen response wins; a tie counts half. None without pairs."""
    if not len(margin):
        return None
    return float(np.mean(np.where(margin == 0, 0.5, margin > 0)))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95% score interval of a share of ``count`` independent trials (Wilson 1927)."""
    spread = Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return centre - half, centre + half


def rank_correlation(length_difference: np.ndarray, margin: np.ndarray) -> float | None:
    """Spearman's rank correlation of Δlen with a margin; None where one is constant, empty or not finite."""
    from scipy.stats import spearmanr

    if len(margin) < 2 or not np.isfinite(margin).all() or np.ptp(length_difference) == 0 or np.ptp(margin) == 0:
        return None
    return float(spearmanr(length_difference, margin).statistic)


def calibration(margin: np.ndarray) -> dict[str, float | None]:
    """How right a proxy says to be beside how right it is: a margin m is a claim of σ(|m|), as Bradley-Terry has it.

    Args:
        margin: (n,) margins of held-out pairs; those that are not finite say nothing.

    Returns:
        ``confidence``, the mean claim, and ``calibration_error``, the mean distance of claim and accuracy over
        :data:`BINS` parts of the pairs with about as many each, from the least to the most certain (Guo et al. 2017);
        None without pairs.
    """
    known = margin[np.isfinite(margin)].astype(np.float64)
    if not len(known):
        return {"confidence": None, "calibration_error": None}
    claims = 1 / (1 + np.exp(-np.abs(known)))
    right = np.where(known == 0, 0.5, known > 0)
    parts = np.array_split(np.argsort(claims, kind="stable"), min(BINS, len(known)))
    error = sum(len(part) * abs(claims[part].mean() - right[part].mean()) for part in parts) / len(known)
    return {"confidence": round(float(claims.mean()), 4), "calibration_error": round(float(error), 4)}


def held_out_facts(
    margin: np.ndarray, length_difference: np.ndarray, baseline_margin: np.ndarray | None
) -> dict[str, Any]:
    """What the manifest says of one proxy.

    Args:
        margin: (n,) final margins of the held-out pairs (eq. 17).
        length_difference: (n,) Δlen in tokens.
        baseline_margin: (n,) margins of a proxy without length remedies, if one was trained.
    """
    share = accuracy(margin)
    return calibration(margin) | {
        "held_out_pairs": len(margin),
        "held_out_accuracy": share,
        "held_out_interval": None if share is None else list(wilson_interval(share, len(margin))),
        "length_correlation": {
            "before": None if baseline_margin is None else rank_correlation(length_difference, baseline_margin),
            "after": rank_correlation(length_difference, margin),
        },
    }


def chance_notes(aspects: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence for every aspect whose proxy may be no better than a coin on prompts that it has not seen."""
    return [
        f"the proxy of {aspect} may be no better than chance on new prompts: it is right on "
        f"{facts['held_out_accuracy']:.1%} of {facts['held_out_pairs']:,} held-out pairs (95% interval "
        f"{facts['held_out_interval'][0]:.1%} to {facts['held_out_interval'][1]:.1%}){_on_the_corpus(facts)}"
        for aspect, facts in aspects.items()
        if facts["held_out_interval"] is not None and facts["held_out_interval"][0] <= 0.5
    ]


def form_notes(aspects: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence for every aspect whose head could take two forms: which it took, and what both predicted."""
    return [
        f"the head of {aspect} is {facts['form']}: the cross-validated loss is "
        + " and ".join(f"{loss:.4f} {name}" for name, loss in facts["validation_loss"].items())
        for aspect, facts in aspects.items()
        if len(facts.get("validation_loss", {})) > 1
    ]


def baseline_notes(metrics: dict[str, Any], most: int) -> list[str]:
    """Of which aspects no length bias before the remedies is known, because a baseline would cost too much."""
    aspects = metrics.get("without_baseline")
    if not aspects:
        return []
    return [
        f"no proxy without length remedies was trained beside that of {', '.join(aspects)}, which would take as long "
        f"again: more pairs than proxies.max_baseline_pairs, {most:,}"
    ]


def reading_notes(metrics: dict[str, Any]) -> list[str]:
    """How texts are read, where two ways were compared."""
    compared = metrics.get("readings", {})
    if len(compared) < 2:
        return []
    losses = " and ".join(f"{facts['validation_loss']:.4f} {name}" for name, facts in compared.items())
    return [f"prompt and response are read {metrics['reading']}: the cross-validated loss is {losses}"]


def _on_the_corpus(facts: dict[str, Any]) -> str:
    share = facts.get("validation_accuracy")
    return "" if share is None else f"; in cross-validation as on the other aspects' pairs, on {share:.1%}"


def agreement(margins: np.ndarray) -> np.ndarray:
    """How much the proxies' margins go together: Σ m_a m_b / √(Σ m_a² Σ m_b²).

    The correlation is not centred: which of two responses is called chosen is chance, and swapping them changes the
    sign of all margins of a pair, which leaves this figure as it is.

    Args:
        margins: (n, κ) margins of n pairs.

    Returns:
        (κ, κ) in [−1, 1]; NaN for a proxy whose margins are all 0.
    """
    products = np.asarray(margins, np.float64).T @ margins
    scale = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        result: np.ndarray = products / np.outer(scale, scale)
    return result


def agreement_rows(margins: np.ndarray) -> list[list[float | None]]:
    """:func:`agreement` as the manifest has it: rounded, None where it is not a number."""
    return [[round(float(value), 4) if np.isfinite(value) else None for value in row] for row in agreement(margins)]
