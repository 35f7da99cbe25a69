"""Two runs side by side: what differs in their settings, which pairs both keep, and their figures and curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdray.hashing import hash64
from pdray.report import charts, figures, record, sections, words
from pdray.report.paired import differences
from pdray.report.run import RunView
from pdray.report.samples import SALT
from pdray.report.scan import Scan
from pdray.report.tables import PairTables
from pdray.summary import win_score


@dataclass(frozen=True)
class Two:
    """Two runs.

    Attributes:
        runs: both.
        scans: what the pass over the pairs of each found.
        shared: see :func:`overlap`.
    """

    runs: tuple[RunView, RunView]
    scans: tuple[Scan | None, Scan | None]
    shared: dict[str, Any] | None


def settings(two: Two) -> dict[str, Any] | None:
    """The settings that differ, with both values."""
    one, other = (_flat(run.config) for run in two.runs)
    keys = [key for key in dict.fromkeys([*one, *other]) if key != "run" and one.get(key) != other.get(key)]
    return {"rows": [(key, one.get(key, "–"), other.get(key, "–")) for key in keys]}


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
    found: dict[str, str] = {}
    for name, one in value.items():
        found |= _flat(one, f"{prefix}.{name}" if prefix else name)
    return found


def overlap(runs: tuple[RunView, RunView]) -> dict[str, Any] | None:
    """How many pairs both keep, by their ids; None where one has no selection.

    Raises:
        UnreadableError: a table is gone or damaged.
    """
    tables = [PairTables.of(run) for run in runs]
    first, second = (None if one is None else _kept_ids(one) for one in tables)
    if first is None or second is None:
        return None
    both = len(np.intersect1d(first, second, assume_unique=True))
    either = len(first) + len(second) - both
    return {
        "both": both,
        "only": (len(first) - both, len(second) - both),
        "shares": tuple(both / max(len(ids), 1) for ids in (first, second)),
        "jaccard": both / max(either, 1),
    }


def _kept_ids(tables: PairTables) -> np.ndarray:
    """A 64-bit hash of the id of every kept pair: 8 bytes each, whatever the ids are."""
    parts = []
    for shard in range(tables.num_shards):
        pairs = tables.read(shard)
        parts.append(hash64(pairs.ids.filter(pairs.kept).to_pylist(), SALT))
    return np.concatenate(parts)


def side_by_side(two: Two) -> dict[str, Any] | None:
    """The main figures of both."""
    rows = []
    for name, figure in FIGURES.items():
        found = [figure(run, scan) for run, scan in zip(two.runs, two.scans, strict=True)]
        if any(one is not None for one in found):
            rows.append((name, *("–" if one is None else one for one in found)))
    return {"rows": rows}


def policies(two: Two) -> dict[str, Any] | None:
    """How much better the second policy is where both were asked the same."""
    found = differences(two.runs)
    return {"rows": found} if found else None


def _rows(stage: str) -> Callable[[RunView, Scan | None], str | None]:
    return lambda run, scan: f"{run[stage].manifest['rows_out']:,}" if run[stage].complete else None


def _conflict(which: str) -> Callable[[RunView, Scan | None], str | None]:
    return lambda run, scan: _share((run["selection"].metrics.get("conflict") or {}).get(which))


def _share(value: float | None) -> str | None:
    return None if value is None else words.percent(value)


def _auroc(run: RunView, scan: Scan | None) -> str | None:
    area = sections.auroc(scan)
    return None if area is None else words.number(area[0])


def _metric(stage: str, key: str) -> Callable[[RunView, Scan | None], str | None]:
    return lambda run, scan: words.number(run[stage].metrics[key]) if key in run[stage].metrics else None


def _accuracy(run: RunView, scan: Scan | None) -> str | None:
    found = run["evaluation"].metrics.get("accuracy")
    return None if found is None else f"{found['mean']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def _win_rates(run: RunView, scan: Scan | None) -> str | None:
    found = run["evaluation"].metrics.get("win_rates") or {}
    told = [
        f"{judge} {rate['mean']:.1%} ({rate['low']:.1%} to {rate['high']:.1%}), win score {win_score(rate)}"
        for judge, rate in found.items()
    ]
    return "; ".join(told) or None


def _cost(key: str) -> Callable[[RunView, Scan | None], str | None]:
    def figure(run: RunView, scan: Scan | None) -> str | None:
        found = record.costs(run, scan)
        return None if found is None else words.number(float(found[key]), 1)

    return figure


FIGURES: dict[str, Callable[[RunView, Scan | None], str | None]] = {
    "pairs": _rows("corpus"),
    "kept pairs": _rows("selection"),
    "in conflict, all": _conflict("all"),
    "in conflict, kept": _conflict("kept"),
    "AUROC of the divergence": _auroc,
    "divergence at the cut": _metric("selection", "cut_pd"),
    "first loss": _metric("alignment", "first_loss"),
    "last loss": _metric("alignment", "last_loss"),
    "held-out pairs right": _accuracy,
    "win rate by judge": _win_rates,
    "seconds": _cost("seconds"),
    "GPU-hours": _cost("gpu_hours"),
}


def curves(two: Two) -> dict[str, Any] | None:
    """Conflict against budget, loss and reward margin of both."""
    found = []
    budgets = [_budget_curve(scan) for scan in two.scans]
    if all(budgets):
        axes = ("share of the pairs that is kept", "share in conflict")
        found.append(charts.both("conflict", "Conflict against budget", budgets, axes, shares=True))
    if all(run["alignment"].complete for run in two.runs):
        logs = [sections.read_history(run["alignment"]) for run in two.runs]
        for name, title, key in (("loss", "Loss", "loss"), ("reward-margins", "Reward margin", "rewards/margins")):
            points = [sections.points(log, key) for log in logs]
            found.append(charts.both(name, title, points, ("step", "")))
    return {"charts": found} if found else None


def _budget_curve(scan: Scan | None) -> list[tuple[float, float]]:
    if scan is None or not scan.counts.conflict.sum():
        return []
    budgets, shares = figures.conflict_curve(scan.counts.conflict[1], scan.counts.conflict[0])
    return list(zip(budgets.tolist(), shares.tolist(), strict=True))


def headline(two: Two) -> str:
    """The first sentence."""
    if two.shared is None:
        return "Two runs side by side."
    one, other = two.shared["shares"]
    return f"Both runs keep {two.shared['both']:,} pairs: {one:.0%} of what the first keeps, {other:.0%} of the second."
