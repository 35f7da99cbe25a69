"""Run the small benchmarks and compare their ratios with the baselines: what `make bench` does, under 15 minutes.

    python -m benchmarks.bench             # exit code 1 where a ratio is worse than its baseline allows
    python -m benchmarks.bench --only selection

A baseline (``benchmarks/baselines/*.json``) is a ratio of two contenders that ran one after the other, so that it holds
on machines of any speed, with the share by which it may be worse. That of ``method`` is about quality: the share of
conflicts that ``pd`` keeps beside that of a random draw.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BASELINES = ROOT / "benchmarks" / "baselines"


def main() -> int:
    """Every baseline's benchmark once, then the table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in BASELINES.glob("*.json"))
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only:
            baseline = json.loads((BASELINES / f"{name}.json").read_text(encoding="utf-8"))
            out = Path(scratch) / f"{name}.json"
            print(f"$ python -m benchmarks.{name} {' '.join(baseline['words'])}", flush=True)
            # What a benchmark keeps below the working directory must not be that of another day.
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            words = [sys.executable, "-m", f"benchmarks.{name}", *baseline["words"], "--out", out]
            subprocess.run(words, check=True, cwd=scratch, env=environment)
            rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
            lines += [compare(name, rows, ratio) for ratio in baseline["ratios"]]
    print(f"{'benchmark':12}{'ratio':58}{'found':>8}{'baseline':>10}{'limit':>8}")
    for line in lines:
        print("{benchmark:12}{ratio:58}{found:8.2f}{expected:10.2f}{limit:8.2f}  {verdict}".format(**line))
    return int(any(line["verdict"] == "worse" for line in lines))


def compare(benchmark: str, rows: list[dict[str, Any]], ratio: dict[str, Any]) -> dict[str, Any]:
    """A ratio beside its baseline.

    Args:
        benchmark: its name.
        rows: of its result.
        ratio: ``figure`` of the row with ``of`` over that of the row with ``to``; ``expected`` and ``tolerance``, the
            share by which it may be worse; ``better`` is ``lower`` or ``higher``.
    """
    found = _value(rows, ratio["of"], ratio["figure"]) / _value(rows, ratio["to"], ratio["figure"])
    worse = 1 + ratio["tolerance"] if ratio["better"] == "lower" else 1 - ratio["tolerance"]
    limit = ratio["expected"] * worse
    is_worse = found > limit if ratio["better"] == "lower" else found < limit
    return {
        "benchmark": benchmark,
        "ratio": f"{ratio['figure']}, {_words(ratio['of'])} / {_words(ratio['to'])}",
        "found": found,
        "expected": ratio["expected"],
        "limit": limit,
        "verdict": "worse" if is_worse else "ok",
    }


def _value(rows: list[dict[str, Any]], wanted: dict[str, Any], figure: str) -> float:
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return float(row[figure])


def _words(wanted: dict[str, Any]) -> str:
    return " ".join(str(value) for value in wanted.values())


if __name__ == "__main__":
    raise SystemExit(main())
