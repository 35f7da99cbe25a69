"""The demo's result in plain words. Pure functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pdray.demo.comparison import ALL, ARMS, PD, RANDOM, START
from pdray.demo.world import CONFLICT_SHARE
from pdray.evaluation.accuracy import Estimate, estimate


def tell(summary: dict[str, Any], comparison: dict[str, Any]) -> str:
    """The demo's result in plain words.

    Args:
        summary: of :func:`pdray.summary.summarise`.
        comparison: of :func:`pdray.demo.comparison.compare`.
    """
    stages = summary["stages"]
    corpus, selection, alignment = stages["corpus"], stages["selection"], stages["alignment"]
    conflict, budget = selection["conflict"], f"{selection['budget']:.0%}"
    accuracies = ", ".join(
        f"{aspect} {proxy['held_out_accuracy']:.0%}" for aspect, proxy in stages["proxies"]["aspects"].items()
    )
    root = Path(summary["run"])
    return "\n".join(
        [
            f"{corpus['rows']:,} pairs went in, each labelled by one of {len(corpus['aspect_rows'])} aspects; in "
            f"{conflict['all']:.1%} of them we had planted a conflict: the other aspects oppose the label "
            f"(asked for: {CONFLICT_SHARE:.0%}).",
            f"A small proxy reward model learned the aspects (held-out accuracy: {accuracies}; words only hint at "
            f"ratings, and labels slip), scored the pairs, and the preference divergence of each pair followed.",
            f"Among the {selection['rows']:,} pairs with the most negative divergence ({budget}), "
            f"{conflict['kept']:.1%} are conflicts; among a random {budget}, {conflict['random']:.1%}.",
            f"DPO on the kept pairs took {alignment['steps']} steps with {alignment['num_workers']} workers "
            f"(DeepSpeed ZeRO-{alignment['zero_stage']}): loss {alignment['first_loss']:.3f} at first, "
            f"{alignment['last_loss']:.3f} at last.",
            "",
            *_ending(comparison, budget),
            "",
            f"kept pairs (TRL's preference format)  {root / selection['folder'] / 'kept'}",
            f"divergence of every pair              {root / selection['folder'] / 'pairs'}",
            f"rank of each kept pair                {root / selection['folder'] / 'ranked'}",
            f"trained policy                        {root / alignment['policy_path']}",
            f"configuration                         {root / 'inputs' / 'run.yaml'}",
            f"rewards of the answers                {root / 'comparison.json'}",
            f"all figures                           pdray show {root}",
            f"a page with plots and pairs to read   {root / 'report.html'}",
        ]
    )


def _ending(comparison: dict[str, Any], budget: str) -> list[str]:
    """What was compared, a row for each arm, and what that says of PD."""
    rewards = {arm: rewards_of(comparison, arm) for arm in ARMS}
    names = {START: "the start", PD: f"PD's {budget}", RANDOM: f"a random {budget}", ALL: "all pairs"}
    num_seeds, num_prompts = rewards[PD].shape
    leads = {arm: interval(rewards[PD] - rewards[arm]) for arm in ARMS if arm != PD}
    rows = [("trained on", "pairs", "conflicts", "true reward of the answers", "PD's lead")]
    for arm, name in names.items():
        pairs, conflicts = (_mean_of(comparison[figure], arm) for figure in ("pairs", "conflicts"))
        counts = (f"{pairs:,.0f}", f"{conflicts / pairs:.1%}") if pairs else ("–", "–")
        rows.append((name, *counts, _told(interval(rewards[arm])), _told(leads[arm], "+") if arm in leads else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"Then the same start was trained on each of these, with the same settings, {num_seeds} times, and every "
        f"policy answered {num_prompts} prompts. True rewards lie between 1 and 5; 95% intervals over the prompts:",
        "",
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        "",
        f"By true reward the policy of PD's pairs is {verdict(leads[RANDOM])} the one of as many random pairs, and "
        f"{verdict(leads[ALL])} the one of all pairs.",
    ]


def rewards_of(comparison: dict[str, Any], arm: str) -> np.ndarray:
    """(seeds, prompts) float64, the true rewards of an arm's answers."""
    return np.array([rewards for name, rewards in sorted(comparison["rewards"].items()) if name.split()[0] == arm])


def interval(values: np.ndarray) -> Estimate:
    """The mean of (seeds, prompts) values with the 95% interval of a bootstrap that draws whole prompts."""
    return estimate(values.ravel(), np.tile(np.arange(values.shape[1]), len(values)), seed=0)


def verdict(lead: Estimate) -> str:
    """What the interval of a lead in reward says."""
    return "better than" if lead.low > 0 else "worse than" if lead.high < 0 else "not to be told from"


def _mean_of(figures: dict[str, int], arm: str) -> float:
    return float(np.mean([figure for name, figure in figures.items() if name.split()[0] == arm]))


def _told(found: Estimate, sign: str = "") -> str:
    return f"{found.mean:{sign}.2f} ({found.low:{sign}.2f} to {found.high:{sign}.2f})"
