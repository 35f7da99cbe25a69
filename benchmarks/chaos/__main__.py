"""Faults, one at a time, on a cluster of three nodes: does the run end, with the same pairs, and nothing left behind?

    python -m benchmarks.chaos --out benchmarks/results/chaos-2core.json      # what make chaos does
    python -m benchmarks.chaos --cases driver-scores disk-scores --out /tmp/chaos.json
    python -m benchmarks.chaos --soak 30 --out benchmarks/results/soak-2core.json

Every case is a small real run with one fault; where the run did not survive it, the same command runs again. Compared
are ids and bytes of the kept shards with those of a run that nobody disturbed. ``again`` counts shards that had a
marker when the fault came and were written once more. Rows of other cases that ``--out`` has from before stay there,
each with its date. The exit code is 1 where a case did not hold.

All of it happens in namespaces of its own (network, mounts, processes), which Linux gives without root. The clock
needs libfaketime.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults import fault_cases
from benchmarks.chaos.isolation import adopt_orphans, enter, three_hosts
from benchmarks.chaos.kills import kill_cases
from benchmarks.chaos.lab import Case, Lab, seconds_of
from benchmarks.chaos.soak import soak
from benchmarks.common import write_result

ENGINES = 2  # that the cluster holds: so many shards may be made again


def main() -> int:
    """Every case that was asked for, one after the other."""
    cases = kill_cases() | fault_cases()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=list(cases), default=list(cases), metavar="CASE")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one command; longer counts as hanging")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="in place of the cases: a fault a minute")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        hosts = None
        if args.soak or any(cases[name].needs_cluster for name in args.cases):
            enter("benchmarks.chaos", sys.argv[1:])
            hosts = stack.enter_context(three_hosts())
        adopt_orphans()
        folder = tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True)
        scratch = Path(stack.enter_context(folder))
        lab = Lab(scratch, Cluster(scratch, hosts) if hosts else None, args.pairs, args.limit)
        if lab.cluster:
            stack.callback(lab.cluster.stop)
        rows = [] if args.soak else run_cases(lab, {name: cases[name] for name in args.cases}, args.out)
        if args.soak:
            rows = [soak(lab, args.soak)]
            write_result(args.out, "soak", {"pairs": args.pairs, "minutes": args.soak}, rows)
    return int(not all(row["held"] for row in rows))


def run_cases(lab: Lab, cases: dict[str, Case], out: Path) -> list[dict[str, Any]]:
    """The rows of these cases; the result file is there after each."""
    rows = []
    for name, case in cases.items():
        rows.append(attempt(lab, name, case) | {"date": time.strftime("%Y-%m-%d")})
        print(json.dumps(rows[-1]), flush=True)
        write_result(out, "chaos", {"pairs": lab.pairs, "limit": lab.limit}, with_others(out, rows))
    return rows


def with_others(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows among those of other cases that a result file has, in the order in which the cases are listed."""
    before = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    found = {row["case"]: row for row in [*before, *rows]}
    return [found[name] for name in kill_cases() | fault_cases() if name in found]


def attempt(lab: Lab, name: str, case: Case) -> dict[str, Any]:
    """One case; what it fails at becomes part of its row."""
    row: dict[str, Any] = {"case": name, "fault": case.fault, "stage": case.stage}
    with seconds_of(row):
        try:
            row |= case.run(lab)
        except Exception as error:  # a case that breaks must not take the others with it
            traceback.print_exc()
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
            for process in lab.processes():
                process.kill()
            if lab.cluster:
                lab.cluster.stop()
    return row | {"held": holds(row)}


def holds(row: dict[str, Any]) -> bool:
    """Whether a case went as it should."""
    return "failed" not in row and row["ids_equal"] and row["orphans"] == 0 and row["again"] <= ENGINES


if __name__ == "__main__":
    raise SystemExit(main())
