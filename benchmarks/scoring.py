"""Score preference pairs: the stage with its default settings beside what one would write instead.

    python -m benchmarks.scoring --data summeval_pairs.parquet --out benchmarks/results/scoring-minilm-2core.json

For each number of aspects κ and each repetition (pairs that a text stands in) one corpus of ``--prompts`` prompts with
16 responses each. Contenders, each in a fresh process, and all must find the same rewards:

    pdray      the scores stage: every distinct text once, one model with κ labels, vLLM in a Ray actor; it reads text,
               tokenises it and writes shards
    raw vllm   one vLLM process, one call, the same distinct texts as token ids
    script     one model per aspect in Transformers, both responses of every pair of the other aspects, as token ids
    ray.data.llm  Ray Data's processor for vLLM with the model of κ labels, both responses of every pair, as token ids

``pairs_per_second`` is over the scoring itself, from the first text in the engine to the last out of it;
``seconds`` is everything but the start of Ray. The peers import nothing of pdray.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.common import write_result
from benchmarks.harness import in_fresh_process, medians
from benchmarks.scoring_data import ASPECTS, make_corpus, make_data, make_models

CONTENDERS = ("pdray", "raw vllm", "script", "ray.data.llm")
LARGEST_DIFFERENCE = 1e-3


def main() -> None:
    """Run every contender on every corpus, check that they agree and write the table."""
    args = parse()
    if args.contender:
        score(args)
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        name = args.data.name if args.data else "demo"
        args.data = args.data or make_data(Path(scratch) / "demo.parquet")
        models = make_models(args.model, Path(scratch) / "models", max(args.kappa))
        for kappa in args.kappa:
            for repetition in args.repetition:
                rows += compare(args, Path(scratch), models, kappa, repetition)
    settings = {name: getattr(args, name) for name in ("prompts", "max_tokens", "repeats", "cpus")}
    write_result(args.out, "scoring", settings | {"data": name, "model": "MiniLM-L6, random heads"}, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="parquet with prompt, response_a and response_b; default: the demo's")
    parser.add_argument("--model", type=Path, help="backbone folder; default: the MiniLM package")
    parser.add_argument("--prompts", type=int, default=20, help="prompts of the corpus, 16 texts each")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--kappa", type=int, nargs="+", default=[1, 2, 4], choices=range(1, len(ASPECTS) + 1))
    parser.add_argument("--repetition", type=int, nargs="+", default=[1, 3, 15], choices=(1, 3, 15))
    parser.add_argument("--repeats", type=int, default=1, help="runs of each contender; medians count")
    parser.add_argument("--cpus", type=int, help="of the engine, pdray's and raw vLLM's, so that others are free")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rewards", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(args: argparse.Namespace, scratch: Path, models: Path, kappa: int, repetition: int) -> list[dict[str, Any]]:
    """All contenders on one corpus."""
    corpus = scratch / f"corpus-{kappa}-{repetition}"
    facts = make_corpus(args.data, corpus, models, args.prompts, kappa, repetition, args.max_tokens)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    differences = dict.fromkeys(args.only, 0.0)
    reference = None
    for name in args.only * args.repeats:  # by turns: the speed of a shared machine drifts
        rewards = scratch / "rewards.npy"
        run = in_fresh_process(*command(name, args, corpus, models, kappa, rewards), scratch / "run")
        runs[name].append({name: float(f"{value:.4g}") for name, value in run.items()})
        found = np.load(rewards)
        reference = found if reference is None else reference
        differences[name] = max(differences[name], float(np.nanmax(np.abs(found - reference))))
        assert differences[name] < LARGEST_DIFFERENCE, f"{name} found other rewards: {differences[name]}"
    rows = []
    for name in args.only:
        row = medians(runs[name])
        row["scoring_seconds_of_each_run"] = [run["scoring_seconds"] for run in runs[name]]
        rate = round(facts["pairs"] / row["scoring_seconds"], 1)
        rows.append({"contender": name, **facts, "pairs_per_second": rate, "max_difference": differences[name], **row})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def command(
    name: str, args: argparse.Namespace, corpus: Path, models: Path, kappa: int, rewards: Path
) -> tuple[str, list[str]]:
    """Module and words of a contender."""
    one, each = models / f"{kappa}-labels", models / f"{kappa}-models"
    texts = ["--texts", str(corpus / "texts.parquet"), "--rewards", str(rewards)]
    if name == "raw vllm":
        words = [*texts, "--model", str(one), "--max-tokens", str(args.max_tokens)]
        return "benchmarks.peers.raw_vllm", words + (["--threads", str(args.cpus)] if args.cpus else [])
    pairs = ["--pairs", str(corpus / "pairs.parquet")]
    if name == "script":
        return "benchmarks.peers.script", [*texts, *pairs, "--models", str(each)]
    if name == "ray.data.llm":
        words = [*texts, *pairs, "--model", str(one), "--max-tokens", str(args.max_tokens)]
        return "benchmarks.peers.ray_data_llm", words
    words = ["--contender", name, "--data", str(args.data), "--corpus", str(corpus), "--model", str(one)]
    words += ["--max-tokens", str(args.max_tokens), "--rewards", str(rewards)]
    return "benchmarks.scoring", words + (["--cpus", str(args.cpus)] if args.cpus else [])


def score(args: argparse.Namespace) -> None:
    """The scores stage in this process."""
    from benchmarks.scoring_data import upstream
    from pdray.config import ClusterConfig, ScoresConfig
    from pdray.console import Console
    from pdray.progress import Progress
    from pdray.runtime import ray_session
    from pdray.scoring.stage import STAGE
    from pdray.stages import StageContext
    from pdray.storage import StoragePath

    size: dict[str, Any] = {"num_actors": 1, "cpus_per_actor": args.cpus} if args.cpus else {}
    config: Any = SimpleNamespace(scores=ScoresConfig(max_tokens=args.max_tokens, **size), seed=0)
    run = StoragePath(str(args.out.parent / "stage"))
    progress = Progress(Console(io.StringIO(), io.StringIO()), "scores")
    before = upstream(args.corpus, args.model)
    context = StageContext(config, run, run / "scores", "benchmark", before, progress)
    with ray_session(ClusterConfig()), contextlib.redirect_stdout(sys.stderr):
        start = time.perf_counter()
        result = STAGE.run(context)
        seconds = time.perf_counter() - start
    assert before.corpus is not None
    shards = context.shards(before.corpus.num_shards)
    tables = [shards.read("texts", shard) for shard in range(before.corpus.num_shards)]
    aspects = [name for name in tables[0].column_names if name.startswith("reward.")]
    np.save(args.rewards, np.concatenate([np.stack([t[a].to_numpy() for a in aspects], axis=1) for t in tables]))
    args.out.write_text(json.dumps({"scoring_seconds": result.metrics["scoring_seconds"], "seconds": seconds}))


if __name__ == "__main__":
    main()
