"""From the figures of the runs to the rows of the two result files: the strategies, and the paper's lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.method.shape import Claim, Estimate, Key, contrast, resampled, verdict

FIGURES = {"accuracy": "right", "win_rate": "won"}
MEANS = ("pairs", "conflict", "auroc", "longer", "cpu_seconds", "reward", "words")


def rows_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each level, strategy and setting: means over the seeds, accuracy and win rate with intervals."""
    rows = []
    for key in dict.fromkeys(map(key_of, runs)):
        mine = [run for run in runs if key_of(run) == key]
        row: dict[str, Any] = {"level": key.level, "strategy": key.strategy, "setting": key.setting, "seeds": len(mine)}
        row |= {name: round(float(np.mean([run[name] for run in mine])), 4) for name in MEANS if name in mine[0]}
        for figure, name in _figures(mine).items():
            row[figure] = _interval(resampled(*(np.array([run[one] for run in mine]) for one in (name, "prompts")), 0))
        rows.append(row)
    return rows


def verdicts(runs: list[dict[str, Any]], claims: list[Claim]) -> list[dict[str, Any]]:
    """A row for each line of the paper whose runs are there, by accuracy and, where answers were judged, win rate."""
    rows = []
    for claim in claims:
        prompts = {key: _by_seed(runs, key, "prompts") for key in claim.terms}
        seeds = sorted(set.intersection(*map(set, prompts.values())))
        if not seeds:
            continue
        row: dict[str, Any] = {"line": claim.text, "seeds": len(seeds)}
        drawn = np.array([next(iter(prompts.values()))[seed] for seed in seeds])
        for figure, name in _figures(runs).items():
            values = {key: _by_seed(runs, key, name) for key in claim.terms}
            means = {key: np.array([one[seed] for seed in seeds]) for key, one in values.items()}
            found = contrast(means, claim.terms, drawn)
            row |= {figure: _interval(found), f"{figure}_verdict": verdict(found, claim.alike)}
        rows.append(row)
    return rows


def key_of(run: Mapping[str, Any]) -> Key:
    """Of which key a run is."""
    return Key(run["level"], run["strategy"], run["setting"])


def _figures(runs: list[dict[str, Any]]) -> dict[str, str]:
    return {figure: name for figure, name in FIGURES.items() if name in runs[0]}


def _by_seed(runs: list[dict[str, Any]], key: Key, name: str) -> dict[int, list[float]]:
    return {run["seed"]: run[name] for run in runs if key_of(run) == key}


def _interval(found: Estimate) -> list[float]:
    return [round(value, 4) for value in (found.mean, found.low, found.high)]
