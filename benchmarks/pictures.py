"""Draw the pictures of the results, one SVG beside each result file that has one.

python -m benchmarks.pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.tables import RESULTS, Row, load

FIGURES = {"driver_mib": "driver", "largest_process_mib": "largest process", "object_store_mib": "Ray's object store"}


def main() -> None:
    """Every picture whose result is there."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result = RESULTS / "scale-2core.json"
    if result.exists():
        draw_scale(load(result.name), result.with_suffix(".svg"))


def draw_scale(rows: list[Row], path: Path) -> None:
    """Peaks of memory against the number of pairs, a panel for each stage; a flat line holds nothing of O(pairs)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pdray"  # the same picture from the same rows, byte for byte
    import matplotlib.pyplot as plt

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


if __name__ == "__main__":
    main()
