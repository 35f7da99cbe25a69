"""Draw the pictures of the results, one SVG beside each result file that has one.

python -m benchmarks.pictures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, Row, load

FIGURES = {"driver_mib": "driver", "largest_process_mib": "largest process", "largest_object_mib": "largest object"}
METHOD_FIGURES = {"accuracy": "accuracy on new pairs", "win_rate": "win rate over SFT"}


def main() -> None:
    """Every picture whose result is there."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pictures = {
        "scale-2core": draw_scale,
        "method-2core": draw_method,
        "method-2core-shape": draw_shape,
        "method-data-2core": draw_method,
        "method-data-2core-shape": draw_shape,
        "simulation-2core": draw_simulation,
    }
    for name, draw in pictures.items():
        result = RESULTS / f"{name}.json"
        if result.exists():
            draw(load(result.name), result.with_suffix(".svg"))


def pyplot() -> Any:
    """Matplotlib, set so that the same rows give the same picture, byte for byte."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pdray"
    import matplotlib.pyplot as plt

    return plt


def draw_scale(rows: list[Row], path: Path) -> None:
    """Peaks of memory against the number of pairs, a panel for each stage; a flat line holds nothing of O(pairs)."""
    plt = pyplot()
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    figure, panels = plt.subplots(1, len(stages), figsize=(9, 3.4), sharey=True, layout="constrained")
    for stage, panel in zip(stages, panels, strict=True):
        mine = [row for row in rows if row["stage"] == stage]
        for name, label in FIGURES.items():
            panel.plot([row["pairs"] for row in mine], [row[name] for row in mine], marker="o", label=label)
        panel.set(title=stage, xlabel="pairs", xscale="log", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("peak, MiB")
    panels[-1].legend()
    figure.savefig(path, metadata={"Date": None})


def draw_simulation(rows: list[Row], path: Path) -> None:
    """What the driver of a simulated pass spends and holds, against the number of shards; crosses had failures."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    figures = {"driver_ms_per_shard": "driver's CPU, ms a shard", "driver_mib": "driver, MiB"}
    for panel, (name, label) in zip(panels, figures.items(), strict=True):
        for failures, style in ((False, "o-"), (True, "x")):
            mine = [row for row in rows if row["failures"] is failures]
            panel.plot([row["shards"] for row in mine], [row[name] for row in mine], style)
        panel.set(xlabel="shards", ylabel=label, ylim=(0, None))
        panel.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def draw_method(rows: list[Row], path: Path) -> None:
    """Accuracy and, where it is known, win rate of every strategy on each corpus, with their 95% intervals."""
    plt = pyplot()
    rows = [row for row in rows if not row["setting"]]
    levels, strategies = sorted({row["level"] for row in rows}), list(dict.fromkeys(row["strategy"] for row in rows))
    figures = {name: label for name, label in METHOD_FIGURES.items() if name in rows[0]}
    size = (9, 3 * len(figures))
    figure, panels = plt.subplots(len(figures), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for panel, (name, label) in zip(panels[:, 0], figures.items(), strict=True):
        for place, level in enumerate(levels):
            mine = [row for row in rows if row["level"] == level]
            middle, low, high = zip(*(row[name] for row in mine), strict=True)
            at = [strategies.index(row["strategy"]) + (place - (len(levels) - 1) / 2) / 5 for row in mine]
            told = level if isinstance(level, str) else f"{level:.0%} conflicts"
            panel.errorbar(at, middle, ends(middle, low, high), fmt="o", capsize=2, label=told)
        panel.axhline(0.5, color="grey", linewidth=0.8)
        panel.set(ylabel=label, xticks=range(len(strategies)), xticklabels=strategies)
        panel.grid(alpha=0.3)
    panels[-1, 0].tick_params(axis="x", rotation=45)
    panels[0, 0].legend()
    figure.savefig(path, metadata={"Date": None})


def draw_shape(rows: list[Row], path: Path) -> None:
    """The contrast of each of the paper's lines with its 95% interval: above 0 the line holds."""
    plt = pyplot()
    figures = {name: label for name, label in METHOD_FIGURES.items() if name in rows[0]}
    size = (4 + 3 * len(figures), 1 + 0.3 * len(rows))
    figure, panels = plt.subplots(1, len(figures), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel, (name, label) in zip(panels[0], figures.items(), strict=True):
        middle, low, high = zip(*(row[name] for row in rows), strict=True)
        panel.errorbar(middle, range(len(rows)), xerr=ends(middle, low, high), fmt="o", capsize=2)
        panel.axvline(0, color="grey", linewidth=0.8)
        panel.set(xlabel=f"difference of {label}", yticks=range(len(rows)), yticklabels=[row["line"] for row in rows])
        panel.grid(alpha=0.3)
    panels[0, 0].invert_yaxis()
    figure.savefig(path, metadata={"Date": None})


def ends(middle: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]]:
    """How far an interval reaches below and above, as Matplotlib wants it."""
    return [
        [one - end for one, end in zip(middle, low, strict=True)],
        [end - one for one, end in zip(middle, high, strict=True)],
    ]


if __name__ == "__main__":
    main()
