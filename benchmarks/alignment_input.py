"""The input step of the alignment: pairs per second and peak memory as the pairs become more.

    python -m benchmarks.alignment_input --pairs 5000 20000 100000 --out benchmarks/results/alignment-input-2core.json

Synthetic kept pairs of some hundred characters, in shards of 1,000, are tokenised with the tokenizer of ``--policy``
(without it, that of a small model made on the spot), cut, ordered and written; then every pair is read once from the
memory-mapped files in its order, as one rank of a training would. Each number of pairs runs in a fresh process with a
local Ray of two CPUs, whose start is not counted. Memory is the peak over the process tree of proportional set sizes,
in a second pass into another folder.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.harness import in_fresh_process, measure
from pdray.config import AlignmentConfig, ClusterConfig

SHARD_PAIRS = 1000
WEIGHTS = {"helpful": 1.0, "honest": 1.0}
WORDS = [f"{first}{second}" for first in ("ka", "le", "mi", "no", "ru") for second in ("sta", "len", "dor", "vik")]


def write_kept(folder: Path, pairs: int) -> Any:
    """Kept pairs with random words, as the selection writes them."""
    import pyarrow as pa

    from pdray.schema import KEPT, PAIRS, kept_schema, selection_schema
    from pdray.shards import ShardedFolder
    from pdray.storage import StoragePath

    draw = random.Random(0)
    shards = ShardedFolder(StoragePath(str(folder)), "benchmark", -(-pairs // SHARD_PAIRS))
    for shard in range(shards.num_shards):
        numbers = range(shard * SHARD_PAIRS, min(pairs, (shard + 1) * SHARD_PAIRS))
        rows = [
            {name: " ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for name in ("prompt", "chosen", "rejected")}
            | {"pair_id": f"pair-{number:09}", "aspect": "helpful"}
            for number in numbers
        ]
        kept = pa.Table.from_pylist(rows, kept_schema(False))
        columns = [kept["pair_id"], [draw.uniform(-1, 1) for _ in numbers], [True] * len(kept)]
        shards.write(shard, {PAIRS: pa.table(columns, selection_schema([])), KEPT: kept}, 0, {})
    return shards


def run_once(pairs: int, folder: Path, policy: str | None, max_tokens: int) -> dict[str, Any]:
    """One measurement, in this process."""
    from pdray.runtime import ray_session

    policy = policy or _small_policy(folder)
    selection = write_kept(folder / "kept", pairs)
    with ray_session(ClusterConfig(num_cpus=2)):
        # Ray's workers start and import the tokenizer's library: the same for any number of pairs.
        _tokenise(folder / "warm", write_kept(folder / "few", 2 * SHARD_PAIRS), policy, max_tokens)
        found: list[Any] = []
        measured = measure(lambda: found.append(_tokenise(folder / "run", selection, policy, max_tokens)))
        measured |= measure(lambda: found.append(_tokenise(folder / "again", selection, policy, max_tokens)), True)
        start = time.monotonic()
        tokens = _read(found[0])
    assert found[0].pairs == pairs, f"{found[0].pairs} of {pairs} pairs"
    return measured | {
        "pairs": pairs,
        "pairs_per_second": round(pairs / measured["seconds"], 1),
        "prompts_cut": found[0].prompts_cut,
        "responses_cut": found[0].responses_cut,
        "tokens": tokens,
        "read_seconds": round(time.monotonic() - start, 2),
    }


def _tokenise(run: Path, selection: Any, policy: str, max_tokens: int) -> Any:
    from pdray.alignment.inputs import ShardEncoder, kept_batches, prepare_input
    from pdray.alignment.stage import input_shards
    from pdray.console import Console
    from pdray.progress import Progress
    from pdray.responses import cut_rule
    from pdray.storage import StoragePath

    settings = AlignmentConfig(policy=policy, max_tokens=max_tokens)
    target = input_shards(StoragePath(str(run)), selection, settings, seed=0)
    rule = cut_rule(settings.max_tokens, settings.prompt_tokens)
    encoder = ShardEncoder(partial(kept_batches, selection), target, policy, rule, 0, WEIGHTS)
    return prepare_input(encoder, Progress(Console(io.StringIO(), io.StringIO()), "input"))


def _read(pairs: Any) -> int:
    """Tokens of all pairs, each read by itself in the order of training."""
    from pdray.alignment import data

    dataset = data.open_pairs(pairs).select(data.read_order(pairs)["row"])
    return sum(len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in dataset)


def _small_policy(folder: Path) -> str:
    from pdray.demo.models import build_models

    build_models([" ".join(WORDS)], folder / "base", folder / "policy")
    return str(folder / "policy")


def main() -> None:
    """Measure each number of pairs in a process of its own and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--policy", help="model folder; its tokenizer is used")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--once", type=Path, help="measure in this process, in this folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.once:
        args.out.write_text(json.dumps(run_once(args.pairs[0], args.once, args.policy, args.max_tokens)))
        return
    policy = ["--policy", os.path.abspath(args.policy)] if args.policy else []
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for pairs in args.pairs:
            folder = Path(scratch) / str(pairs)
            words = ["--pairs", str(pairs), "--max-tokens", str(args.max_tokens), *policy, "--once", str(folder)]
            rows.append(in_fresh_process("benchmarks.alignment_input", words, folder))
            print(rows[-1])
    name = "alignment input by number of pairs"
    write_result(args.out, name, {"max_tokens": args.max_tokens, "shard_pairs": SHARD_PAIRS}, rows)


if __name__ == "__main__":
    main()
