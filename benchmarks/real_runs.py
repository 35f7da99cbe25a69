"""Run the whole pipeline on a real corpus and keep what it printed.

    python -m benchmarks.real_runs hh_rlhf  --data DIR --models DIR --out benchmarks/results/run-hh-rlhf-2core.json
    python -m benchmarks.real_runs summeval --data DIR --models DIR --out benchmarks/results/run-summeval-2core.json

``--data`` holds hh_rlhf_pairs.parquet and summeval_pairs.parquet; ``--models`` gets the MiniLM and SmolLM2-135M folders
that ``pdray models`` builds, where they are not there yet. Before the run ``pdray plan`` predicts its seconds, by rates
that it measures with a small run of its own. After it the script cuts the same scores again for the pairs with the
highest divergence and for a random draw.
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

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import yaml
from scipy.stats import rankdata

from benchmarks.common import write_result
from pdray.hashing import hash64
from pdray.summary import summarise

# 13 steps of 2 workers x 4 pairs are 104 pairs of DPO.
DPO = {"max_steps": 13, "batch_size": 1, "pairs_per_step": 8, "held_out": 0.01, "learning_rate": 1e-5}
HEAD = {"train": "head"}
SCORES = {"engine": "vllm", "cpu_cache_gib": 0.5}
RUNS: dict[str, dict[str, Any]] = {
    "hh_rlhf": {
        "corpus": {"kind": "pairs"},
        "proxies": HEAD,
        "scores": {**SCORES, "max_tokens": 192},
        "selection": {"budget": 0.3},
        "alignment": {**DPO, "max_tokens": 192},
    },
    "summeval": {
        "corpus": {"kind": "rated"},
        "proxies": HEAD,
        "scores": {**SCORES, "max_tokens": 256},
        "selection": {"budget": 0.3},
        "alignment": {**DPO, "max_tokens": 256},
    },
}


def main() -> None:
    """Build the models, run, cut again, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two parquet files")
    parser.add_argument("--models", type=Path, required=True, help="folder for the two models")
    parser.add_argument("--folder", type=Path, help="run folder (default: runs/<run>)")
    parser.add_argument("--rows", type=int, help="a seeded subset of so many input rows (default: all)")
    parser.add_argument("--no-alignment", action="store_true", help="stop at the selection")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    for name in ("minilm",) if args.no_alignment else ("minilm", "smollm2"):
        if not (args.models / name / "config.json").is_file():
            pdray("models", name, str(args.models / name))
    folder = args.folder or Path("runs") / args.run
    config = folder / "inputs" / "run.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    settings = make_settings(args.run, folder, corpus_file(args, config.parent), args.models)
    if args.no_alignment:
        del settings["alignment"]
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    foretold = predicted(config)
    pdray("run", str(config))
    summary = summarise(folder)
    cuts = {}
    for strategy in ("pd_high", "random"):
        pdray("select", str(config), "--set", f"selection.strategy={strategy}")
        cuts[strategy] = summarise(folder)["stages"]["selection"]
    pdray("run", str(config))  # points `pdray show` back to the run itself
    summary["stages"]["selection"]["auroc"] = auroc(folder, summary["stages"])
    stages = {name: stage for name, stage in summary["stages"].items() if stage["status"] == "complete"}
    rows = with_total([{"stage": name, **without_paths(stage)} for name, stage in stages.items()], foretold)
    rows += [{"stage": f"selection, {name}", **without_paths(stage)} for name, stage in cuts.items()]
    shown = {name: value for name, value in settings.items() if name != "run"}
    write_result(args.out, f"run {args.run}", without_paths(shown) | {"input_rows": args.rows or "all"}, rows)


def with_total(rows: list[dict[str, Any]], foretold: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of the stages with the seconds that were foretold, and one of all where none was done before."""
    found = [row | {"predicted_seconds": foretold.get(row["stage"])} for row in rows]
    if len(foretold) < len(rows):
        return found
    seconds = {name: round(sum(row[name] for row in found), 1) for name in ("seconds", "predicted_seconds")}
    return [*found, {"stage": "all", **seconds}]


def predicted(config: Path) -> dict[str, float]:
    """Seconds by stage that is to run, as ``pdray plan`` has them on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"XDG_CACHE_HOME": scratch}  # no rates of another day
        words = [sys.executable, "-m", "pdray", "plan", str(config)]
        subprocess.run([*words, "--calibrate"], check=True, env=environment)
        told = subprocess.run([*words, "--json"], check=True, env=environment, stdout=subprocess.PIPE).stdout
    return {stage["name"]: stage["seconds"] for stage in json.loads(told)["stages"] if "seconds" in stage}


def auroc(run: Path, stages: dict[str, Any]) -> float | None:
    """How well divergence tells pairs in true conflict from others; ties count half, None without true ratings."""
    pairs = pads.dataset(run / stages["corpus"]["folder"] / "pairs").to_table()
    if "conflict" not in pairs.column_names:
        return None
    divergence = pads.dataset(run / stages["selection"]["folder"] / "pairs").to_table(columns=["pair_id", "pd"])
    both = pairs.select(["pair_id", "conflict"]).join(divergence, "pair_id").filter(pads.field("pd").is_valid())
    known = both.filter(pads.field("conflict").is_valid())
    conflict = known["conflict"].to_numpy(zero_copy_only=False)
    ranks = rankdata(known["pd"].to_numpy())
    found = int(conflict.sum())
    above = ranks[conflict].sum() - found * (found + 1) / 2
    return round(float(above / (found * (len(conflict) - found))), 4)


def corpus_file(args: argparse.Namespace, folder: Path) -> Path:
    """The corpus, or a subset of its rows: those with the smallest hash of their number."""
    source: Path = args.data / f"{args.run}_pairs.parquet"
    if args.rows is None:
        return source
    subset = folder / f"{args.run}-{args.rows}.parquet"
    if not subset.is_file():
        table = pq.read_table(source)
        order = hash64([str(row) for row in range(len(table))], "subset").argsort(kind="stable")
        pq.write_table(table.take(sorted(order[: args.rows])), subset)
    return subset


def make_settings(run: str, folder: Path, corpus: Path, models: Path) -> dict[str, Any]:
    """The run's YAML as a mapping."""
    sections = RUNS[run]
    return {
        "run": str(folder),
        "corpus": {"path": str(corpus), **sections["corpus"]},
        "proxies": {"base_model": str(models / "minilm"), **sections["proxies"]},
        "scores": sections["scores"],
        "selection": sections["selection"],
        "alignment": {"policy": str(models / "smollm2"), **sections["alignment"]},
    }


def without_paths(value: Any) -> Any:
    """The value without what names places on this machine."""
    if isinstance(value, dict):
        places = ("path", "policy_path", "policy", "base_model", "folder", "models")
        return {key: without_paths(item) for key, item in value.items() if key not in places}
    return value


def pdray(*words: str) -> None:
    """Run a pdray command; its failure is ours."""
    print("$ pdray", *words, flush=True)
    subprocess.run([sys.executable, "-m", "pdray", *words], check=True)


if __name__ == "__main__":
    main()
