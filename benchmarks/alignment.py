"""Seconds of a DPO step and memory of a worker: pdray, its reference computed or known, and plain TRL.

    python -m benchmarks.alignment --policy DIR --steps 6 --out benchmarks/results/alignment-2core.json

Two workers of one thread each train the same model on the same synthetic pairs with the same step size. ``reference
known`` is the same run folder once more with another β. ``seconds`` is everything from a started Ray, or from the
command of the peer, to the trained policy. Memory is the largest unique set size of a process, in a second pass of two
steps, because sampling it costs time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.alignment_input import WEIGHTS, write_kept
from benchmarks.common import write_result
from benchmarks.harness import in_fresh_process
from benchmarks.scale import Peaks
from pdray.config import AlignmentConfig, ClusterConfig

WORKERS = 2
PAIRS_PER_STEP = 8
MEMORY_STEPS = 2
CONTENDERS = ("pdray, reference computed", "pdray, reference known", "TRL under accelerate")


def run_once(contender: str, policy: str, steps: int, max_tokens: int, folder: Path, memory: bool) -> dict[str, Any]:
    """One measurement, in this process and those that it starts."""
    selection = write_kept(folder / "kept", steps * PAIRS_PER_STEP)
    if contender == CONTENDERS[2]:
        return _measured(lambda: _train_with_trl(folder, policy, steps, max_tokens), memory)
    from pdray.runtime import ray_session

    with ray_session(ClusterConfig(num_cpus=WORKERS)):

        def train(beta: float) -> dict[str, Any]:
            settings = AlignmentConfig(
                policy=policy,
                beta=beta,
                max_steps=steps,
                pairs_per_step=PAIRS_PER_STEP,
                max_tokens=max_tokens,
                held_out=0,
                num_workers=WORKERS,
            )
            return _train(folder / "run", folder / f"beta-{beta}", selection, settings)

        if contender == CONTENDERS[1]:
            train(0.1)
            return _measured(lambda: train(0.2), memory)
        return _measured(lambda: train(0.1), memory)


def _measured(function: Any, memory: bool) -> dict[str, Any]:
    peaks = Peaks()
    if memory:
        peaks.start()
    start = time.monotonic()
    found: dict[str, Any] = function()
    found["seconds"] = round(time.monotonic() - start, 1)
    return {"worker_mib": peaks.finish()["largest_process_mib"]} if memory else found


def _train(run: Path, folder: Path, selection: Any, settings: AlignmentConfig) -> dict[str, Any]:
    """The alignment stage without its manifest."""
    from pdray.alignment import checkpoints
    from pdray.alignment.inputs import ShardEncoder, kept_batches, prepare_input
    from pdray.alignment.launch import fit
    from pdray.alignment.stage import input_shards, reference_store
    from pdray.alignment.worker import TrainingJob
    from pdray.console import Console
    from pdray.progress import Progress
    from pdray.responses import cut_rule
    from pdray.storage import StoragePath

    folder.mkdir()
    root, progress = StoragePath(str(run)), Progress(Console(io.StringIO(), io.StringIO()), "alignment")
    target = input_shards(root, selection, settings, seed=0)
    rule = cut_rule(settings.max_tokens, settings.prompt_tokens)
    pairs = prepare_input(
        ShardEncoder(partial(kept_batches, selection), target, settings.policy, rule, 0, WEIGHTS), progress
    )
    with progress.counting("DPO", unit="steps") as counter:
        fit(TrainingJob(settings, 0, pairs, reference_store(root, settings), folder, counter), print)
    checkpoint = checkpoints.finished(folder)
    assert checkpoint is not None, "trained to the end"
    facts = checkpoints.read_mark(checkpoint) or {}
    history = checkpoints.read_history(checkpoint)
    return {
        "step_seconds": round(facts["seconds_per_step"], 2),
        "reference_pairs": facts["reference_computed"],
        "losses": [entry["loss"] for entry in history if "loss" in entry],
    }


def _train_with_trl(folder: Path, policy: str, steps: int, max_tokens: int) -> dict[str, Any]:
    result = folder / "trl.json"
    words = ["--policy", policy, "--pairs", str(folder / "kept" / "kept" / "*.parquet"), "--steps", str(steps)]
    words += ["--accumulation", str(PAIRS_PER_STEP // WORKERS), "--max-tokens", str(max_tokens)]
    words += ["--learning-rate", str(AlignmentConfig.model_fields["learning_rate"].default)]
    words += ["--folder", str(folder / "trl"), "--out", str(result)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(WORKERS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, "-m", "benchmarks.peers.dpo_trl", *words], check=True, env=environment)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _config(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "policy": Path(args.policy).name,
        "steps": MEMORY_STEPS if args.memory else args.steps,
        "max_tokens": args.max_tokens,
        "pairs_per_step": PAIRS_PER_STEP,
        "workers": WORKERS,
        "zero_stage": 2,
    }


def main() -> None:
    """Each contender in fresh processes, once for its seconds and once for its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True, help="model folder, for example of: pdray models smollm2 DIR")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=CONTENDERS)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help="memory alone, where other programs disturb the seconds")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    policy = os.path.abspath(args.policy)
    if args.once:
        found = run_once(args.only[0], policy, args.steps, args.max_tokens, args.once, args.memory)
        args.out.write_text(json.dumps(found))
        return
    rows = []
    passes: list[tuple[int, list[str]]] = [(MEMORY_STEPS, ["--memory"])]
    for contender in args.only:
        row: dict[str, Any] = {"contender": contender}
        for steps, memory in passes if args.memory else [(args.steps, []), *passes]:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "once"
                words = ["--only", contender, "--policy", policy, "--steps", str(steps), "--once", str(folder), *memory]
                words += ["--max-tokens", str(args.max_tokens)]
                row = in_fresh_process("benchmarks.alignment", words, folder) | row
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_result(args.out, "alignment", _config(args), rows)  # what is done stays, if the next one is interrupted


if __name__ == "__main__":
    main()
