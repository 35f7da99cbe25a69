"""Write the tables of README.md and docs/ from the result files.

    python -m benchmarks.tables            # rewrites the pages that have tables
    python -m benchmarks.tables --check    # exit code 1 where a page says something else

A table stands between ``<!-- table NAME -->`` and ``<!-- end of table -->``; NAME is a key of :data:`TABLES`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

MISSING = "–"

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]


def figure(name: str, digits: int | None = None) -> Callable[[Row], Any]:
    """A figure of a row, rounded; a dash where the row has none."""

    def value(row: Row) -> Any:
        found = row.get(name)
        return MISSING if found is None else f"{found:,.{digits}f}" if digits is not None else found

    return value


def spread(row: Row) -> str:
    """The fastest and the slowest of the runs."""
    runs = row["seconds_of_each_run"]
    return f"{min(runs):.1f} to {max(runs):.1f}"


def interval(name: str, digits: int = 3) -> Callable[[Row], Any]:
    """A mean with the half width of its interval; a dash where the row has none."""
    return lambda row: " ± ".join(f"{value:.{digits}f}" for value in row[name]) if name in row else MISSING


def bounds(name: str, sign: str = "") -> Callable[[Row], Any]:
    """A mean with both ends of its interval; a dash where the row has none."""

    def value(row: Row) -> str:
        found = row.get(name)
        return MISSING if found is None else f"{{:{sign}.3f}} ({{:{sign}.3f}} to {{:{sign}.3f}})".format(*found)

    return value


def over_aspects(name: str, digits: int) -> Callable[[Row], Any]:
    """The smallest and the largest of an aspect's figures; a dash where they have none."""

    def value(row: Row) -> str:
        found = row[name]
        if None in found:
            return MISSING
        ends = dict.fromkeys(f"{end:.{digits}f}" for end in (min(found), max(found)))
        return " to ".join(ends)

    return value


def scaled(name: str, unit: float, digits: int) -> Callable[[Row], Any]:
    """A figure in another unit, rounded; a dash where the row has none."""
    return lambda row: MISSING if row.get(name) is None else f"{row[name] / unit:,.{digits}f}"


def over_foretold(row: Row) -> str:
    """Seconds that a stage took over those that ``pdray plan`` had foretold; a dash where it foretold none."""
    return f"{row['seconds'] / row['predicted_seconds']:.2f}" if row.get("predicted_seconds") else MISSING


def losses(row: Row) -> str:
    """Loss of the first and of the last step; a dash where nothing was trained."""
    return f"{row['first_loss']:.3f} → {row['last_loss']:.3f}" if "first_loss" in row else MISSING


def conflict_kept(row: Row) -> str:
    """The share of conflicts among the kept pairs; a dash where it is not known."""
    found = row.get("conflict")
    return f"{found['kept']:.3f}" if isinstance(found, dict) else MISSING


def fates(row: Row) -> list[str]:
    """How often each fate of benchmarks.fakes was met."""
    return [str(row["calls"].get(fate, 0)) for fate in ("well", "slow", "raises", "dies")]


def of_pdray(row: Row) -> str:
    """Pairs per second beside pdray's on the same corpus; :func:`load` adds the latter."""
    return f"{row['pairs_per_second'] / row['pdray']:.2f}"


RUN: list[Column] = [
    ("stage", figure("stage")),
    ("rows", figure("rows", 0)),
    ("seconds", figure("seconds", 0)),
    ("foretold", figure("predicted_seconds", 0)),
    ("of what was foretold", over_foretold),
    ("conflicts among the kept", conflict_kept),
    ("AUROC", figure("auroc", 3)),
    ("loss", losses),
    ("held-out pairs right", figure("eval_accuracy", 2)),
]
SELECTION: list[Column] = [
    ("contender", figure("contender")),
    ("seconds, median", figure("seconds", 1)),
    ("of all runs", spread),
    ("of DuckDB's ORDER BY", figure("ratio", 2)),
    ("CPU seconds", figure("cpu_seconds", 1)),
    ("peak memory, GiB", figure("peak_memory_gib", 1)),
]
SCORING: list[Column] = [
    ("κ", figure("kappa")),
    ("pairs of a text", figure("repetition")),
    ("contender", figure("contender")),
    ("pairs/s", figure("pairs_per_second", 1)),
    ("of pdray", of_pdray),
    ("seconds in all", figure("seconds", 0)),
]
RESUME: list[Column] = [
    ("storage", figure("where")),
    ("killed in", figure("stage")),
    ("at", lambda row: f"{row['percent']}%"),
    ("shards done", lambda row: f"{row['done_at_kill']} of {row['shards']}"),
    ("made again", figure("again")),
    ("rows repeated", figure("repeated_rows")),
    ("kept shards", lambda row: "identical" if row["kept_shards_identical"] else "DIFFERENT"),
]
CHAOS: list[Column] = [
    ("fault", figure("fault")),
    ("in", figure("stage")),
    ("seconds", figure("seconds", 0)),
    ("shards done", lambda row: "FAILED" if "failed" in row else f"{row['done_at_fault']} of {row['shards']}"),
    ("made again", figure("again")),
    ("exit codes", lambda row: ", ".join(map(str, row.get("exit_codes", [])))),
    ("attempts", figure("attempts")),
    ("kept ids", lambda row: {True: "identical", False: "DIFFERENT", None: "–"}[row.get("ids_equal")]),
    ("orphans", figure("orphans")),
    ("on", figure("date")),
]
SCALE: list[Column] = [
    ("pairs", figure("pairs", 0)),
    ("stage", figure("stage")),
    ("seconds", figure("seconds", 0)),
    ("driver, MiB", figure("driver_mib", 0)),
    ("largest process, MiB", figure("largest_process_mib", 0)),
    ("largest object, MiB", figure("largest_object_mib", 0)),
]
ALIGNMENT_INPUT: list[Column] = [
    ("pairs", figure("pairs", 0)),
    ("seconds", figure("seconds", 1)),
    ("pairs/s", figure("pairs_per_second", 0)),
    ("peak memory of all processes, GiB", figure("peak_memory_gib", 2)),
    ("seconds to read every pair", figure("read_seconds", 1)),
]
ALIGNMENT: list[Column] = [
    ("contender", figure("contender")),
    ("seconds a step", figure("step_seconds", 1)),
    ("seconds in all", figure("seconds", 0)),
    ("largest process, MiB", figure("worker_mib", 0)),
]
PROXIES: list[Column] = [
    ("corpus", figure("corpus")),
    ("proxies", figure("proxies")),
    ("held-out accuracy", interval("held_out_accuracy")),
    ("accuracy on other aspects' pairs", interval("accuracy")),
    ("AUROC", interval("auroc")),
    ("conflict: all", interval("conflict_all")),
    ("kept 30%", interval("conflict_kept")),
    ("kept by the heads too", interval("overlap", 2)),
    ("seconds", interval("seconds", 0)),
]
PROMPTS: list[Column] = [
    ("corpus", figure("corpus")),
    ("heads", figure("heads")),
    ("accuracy", interval("accuracy")),
    ("AUROC", interval("auroc")),
    ("conflict kept 30%", interval("conflict_kept")),
]
METHOD_LEVELS, DEFAULT_BUDGET = (0.1, 0.2, 0.3), "0.3"
METHOD: list[Column] = [
    ("strategy", figure("strategy")),
    ("pairs", figure("pairs", 0)),
    *((f"win rate over SFT, {level:.0%} conflicts", bounds(f"win_rate {level}")) for level in METHOD_LEVELS),
    *((f"conflict kept, {level:.0%}", figure(f"conflict {level}", 3)) for level in METHOD_LEVELS),
    ("AUROC, 20%", figure("auroc 0.2", 3)),
    ("accuracy on new pairs, 20%", bounds("accuracy 0.2")),
    ("CPU seconds", figure("cpu_seconds", 0)),
]
METHOD_SHORT: list[Column] = [
    ("strategy", figure("strategy")),
    ("pairs", figure("pairs", 0)),
    ("conflicts among them", figure("conflict 0.2", 3)),
    ("win rate over SFT, by true reward", bounds("win_rate 0.2")),
    ("accuracy on new pairs", bounds("accuracy 0.2")),
]
METHOD_BUDGET: list[Column] = [
    ("λ", figure("budget")),
    ("pairs", figure("pairs", 0)),
    ("conflicts among them", figure("conflict", 3)),
    ("win rate over SFT", bounds("win_rate")),
    ("accuracy on new pairs", bounds("accuracy")),
]
METHOD_SHAPE: list[Column] = [
    ("line of the paper", figure("line")),
    ("seeds", figure("seeds")),
    ("by accuracy", bounds("accuracy", "+")),
    ("", figure("accuracy_verdict")),
    ("by win rate", bounds("win_rate", "+")),
    (" ", figure("win_rate_verdict")),
]
METHOD_DATA: list[Column] = [
    ("data", figure("level")),
    ("strategy", figure("strategy")),
    ("pairs", figure("pairs", 0)),
    ("conflicts among them", figure("conflict", 3)),
    ("AUROC", figure("auroc", 3)),
    ("accuracy on new pairs", bounds("accuracy")),
    ("CPU seconds", figure("cpu_seconds", 0)),
]
LENGTH_BIAS: list[Column] = [
    ("data", figure("corpus")),
    ("remedy", figure("variant")),
    ("τ", over_aspects("temperature", 2)),
    ("ρ of the loss", over_aspects("loss_penalty", 4)),
    ("ρ of scoring", over_aspects("penalty", 4)),
    ("correlation on new pairs", bounds("correlation", "+")),
    ("accuracy on new pairs", bounds("accuracy")),
    ("AUROC", figure("auroc", 3)),
]
TERABYTE, GIBIBYTE = 1e12, 2**30
BILLION: list[Column] = [
    ("stage", figure("stage")),
    ("tasks", figure("tasks", 0)),
    ("objects", figure("objects", 0)),
    ("object store, TB", scaled("store", TERABYTE, 2)),
    ("read, TB", scaled("read", TERABYTE, 2)),
    ("written, TB", scaled("written", TERABYTE, 2)),
    ("between nodes, TB", scaled("network", TERABYTE, 2)),
    ("held by the driver, GiB", scaled("driver", GIBIBYTE, 2)),
    ("hours", scaled("seconds", 3600, 2)),
    ("mostly", figure("mostly")),
]
LIMITS: list[Column] = [
    ("what", figure("what")),
    ("GiB", scaled("bytes", GIBIBYTE, 1)),
    ("room, GiB", scaled("room", GIBIBYTE, 0)),
    ("full at, million pairs", scaled("full_at", 1e6, 0)),
]
SIMULATION: list[Column] = [
    ("shards", figure("shards")),
    ("fake GPUs", figure("gpus")),
    ("calls that ended well, were slow, raised, died", lambda row: ", ".join(fates(row))),
    ("seconds", figure("seconds", 0)),
    ("engines busy", figure("busy", 2)),
    ("driver's CPU, ms a shard", figure("driver_ms_per_shard", 1)),
    ("driver, MiB", figure("driver_mib", 0)),
    ("hand-over, seconds", figure("hand_over_seconds", 0)),
    ("engines left then", figure("engines_left")),
    ("rewards", lambda row: row["rewards"][:8]),
]
TABLES: dict[str, tuple[str, list[Column]]] = {
    "run-summeval": ("run-summeval-2core.json", RUN),
    "run-hh-rlhf": ("run-hh-rlhf-2core.json", RUN),
    "selection": ("selection-1m-2core.json", SELECTION),
    "selection-10m": ("selection-10m-2core.json", SELECTION),
    "scoring": ("scoring-minilm-2core.json", SCORING),
    "scoring-ray-data-llm": ("scoring-ray-data-llm-2core.json", SCORING),
    "resume": ("resume-2core.json", RESUME),
    "chaos": ("chaos-2core.json", CHAOS),
    "alignment-input": ("alignment-input-2core.json", ALIGNMENT_INPUT),
    "alignment": ("alignment-2core.json", ALIGNMENT),
    "scale": ("scale-2core.json", SCALE),
    "proxies": ("proxies-2core.json", PROXIES),
    "method": ("method-2core.json", METHOD),
    "method-short": ("method-2core.json", METHOD_SHORT),
    "method-budget": ("method-2core.json", METHOD_BUDGET),
    "method-shape": ("method-2core-shape.json", METHOD_SHAPE),
    "method-data": ("method-data-2core.json", METHOD_DATA),
    "method-data-shape": ("method-data-2core-shape.json", METHOD_SHAPE),
    "length-bias": ("length-bias-2core.json", LENGTH_BIAS),
    "proxy-prompts": ("proxy-prompts-2core.json", PROMPTS),
    "simulation": ("simulation-2core.json", SIMULATION),
    "billion": ("billion.json", BILLION),
    "billion-limits": ("billion.json", LIMITS),
}


def load(name: str) -> list[Row]:
    """The rows of a result file."""
    rows: list[Row] = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
    corpora = {(row.get("kappa"), row.get("repetition")): row for row in rows if row.get("contender") == "pdray"}
    for row in rows:
        ours = corpora.get((row.get("kappa"), row.get("repetition")), {})
        row["pdray"] = ours.get("pairs_per_second")
    return rows


def by_strategy(rows: list[Row]) -> list[Row]:
    """One row a strategy under the default settings, from those of its levels of conflict."""
    found: dict[str, Row] = {}
    for row in rows:
        if not row["setting"]:
            mine = found.setdefault(row["strategy"], {"strategy": row["strategy"], "pairs": row.get("pairs")})
            mine |= {f"{name} {row['level']}": row.get(name) for name in ("win_rate", "conflict", "accuracy", "auroc")}
            mine["cpu_seconds"] = row.get("cpu_seconds")
    return list(found.values())


def by_budget(rows: list[Row]) -> list[Row]:
    """The rows of PD's sweep over the budget, the smallest first, the default among them."""
    (level,) = {row["level"] for row in rows if row["setting"].startswith("λ")}
    mine = [row for row in rows if (row["level"], row["strategy"]) == (level, "pd")]
    swept = [row | {"budget": row["setting"][4:] or DEFAULT_BUDGET} for row in mine if row["setting"][:1] in ("", "λ")]
    return sorted(swept, key=lambda row: float(row["budget"]))


SHAPED = {"method": by_strategy, "method-short": by_strategy, "method-budget": by_budget}


def table(name: str) -> str:
    """A table in Markdown; a figure that no row has gets no column, a row without the first figure no line."""
    file, columns = TABLES[name]
    rows = [row for row in SHAPED.get(name, list)(load(file)) if columns[0][1](row) != MISSING]
    columns = [(title, value) for title, value in columns if any(value(row) != MISSING for row in rows)]
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[str(value(row)) for _, value in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str) -> str:
    """The text with every table in it written anew."""
    return BLOCK.sub(lambda block: block[1] + table(block["name"]) + block[3], text)


def main() -> int:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where a table differs")
    args = parser.parse_args()
    differing = [page for page in PAGES if filled(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    if args.check:
        return int(bool(differing))
    for page in differing:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
