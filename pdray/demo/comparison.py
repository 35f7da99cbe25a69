"""What a user came for: one start trained on PD's pairs, on random ones and on all, and how good its answers are then.

Every arm takes as many steps with the settings of the run's alignment, once for each seed, which draws the random pairs
and the order of training. All policies answer the same prompts with the same draws.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pdray.config import AlignmentConfig
from pdray.demo.apart import carried_out
from pdray.demo.dpo import Training
from pdray.demo.words import every_prompt, true_reward
from pdray.outputs import StageOutput
from pdray.selection.strategies.random import random_keys
from pdray.storage import StoragePath

START, PD, RANDOM, ALL = ARMS = "start", "pd", "random", "all"
SEEDS = (0, 1, 2)
PROMPTS = 256


@dataclass(frozen=True)
class Job:
    """One policy to train and to ask.

    Attributes:
        arm: one of :data:`ARMS`; the start is not trained.
        rows: of the corpus file, to train on.
        inputs: folder of the demo's inputs.
        training: its settings.
    """

    arm: str
    rows: list[int]
    inputs: Path
    training: Training

    @property
    def name(self) -> str:
        """Of the job among all."""
        return f"{self.arm} {self.training.seed}"


def compare(root: Path, stages: Mapping[str, StageOutput], alignment: AlignmentConfig) -> dict[str, Any]:
    """The comparison of a finished run, from ``comparison.json`` where it is there; what is missing is made.

    Args:
        root: the demo's run folder.
        stages: its outputs, to the alignment.
        alignment: settings of the training.

    Returns:
        ``of``, which run it is of; ``pairs`` and ``conflicts``, how many of each arm are trained on, by its name and
        seed; ``rewards``, of the answer to each prompt likewise.
    """
    of = [Path(stages[name].folder).name for name in ("corpus", "selection", "alignment")]
    path = StoragePath(str(root / "comparison.json"))
    found = _read(path, of) or {"of": of, "pairs": {}, "conflicts": {}, "rewards": {}}
    table = stages["corpus"].table("pairs", ["pair_id", "conflict"])
    conflict = dict(zip(*(table[name].to_pylist() for name in ("pair_id", "conflict")), strict=True))
    kept = set(stages["selection"].table("kept", ["pair_id"])["pair_id"].to_pylist())
    ids = [pair["pair_id"] for pair in read_pairs(root / "inputs")]
    missing = [job for job in jobs(ids, kept, root / "inputs", alignment) if job.name not in found["rewards"]]
    for job in missing:
        found["pairs"][job.name] = len(job.rows)
        found["conflicts"][job.name] = sum(conflict[ids[row]] for row in job.rows)
    log = root / "logs" / "comparison.log"
    for done, (name, rewards) in enumerate(carried_out(rewards_of_job, missing, log), 1):
        found["rewards"][name] = rewards
        path.write_json(found)
        print(f"comparison {done}/{len(missing)} policies trained and asked", file=sys.stderr, flush=True)
    return found


def _read(path: StoragePath, of: list[str]) -> dict[str, Any] | None:
    """What was compared before; None where that is of another run, or nothing whole."""
    try:
        found = path.read_json()
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and all(
        isinstance(found.get(name), dict) for name in ("pairs", "conflicts", "rewards")
    )
    return found if whole and found.get("of") == of else None


def jobs(ids: list[str], kept: set[str], inputs: Path, alignment: AlignmentConfig) -> list[Job]:
    """Every policy of the comparison, the start first.

    Args:
        ids: of all pairs.
        kept: ids of those that the run has kept.
        inputs: folder of the demo's inputs.
        alignment: settings of the training.
    """
    assert alignment.max_steps is not None, "an arm with more pairs would take more steps"
    found = []
    for seed in SEEDS:
        drawn = np.argsort(random_keys(ids, seed), kind="stable")[: len(kept)]
        rows = {
            START: [],
            PD: [row for row, pair_id in enumerate(ids) if pair_id in kept],
            RANDOM: sorted(drawn.tolist()),
            ALL: list(range(len(ids))),
        }
        training = Training(alignment.loss, alignment.max_steps, alignment.beta, alignment.learning_rate, seed)
        found += [Job(arm, rows[arm], inputs, training) for arm in ARMS]
    return found


def read_pairs(inputs: Path) -> list[dict[str, Any]]:
    """The corpus file."""
    with gzip.open(inputs / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def rewards_of_job(job: Job) -> tuple[str, list[float]]:
    """Train and ask: the job's name, and the true reward of the answer to each prompt."""
    from pdray.demo.dpo import sample, train

    policy, prompts = job.inputs / "policy", every_prompt()[:: len(every_prompt()) // PROMPTS]
    with tempfile.TemporaryDirectory() as scratch:
        if job.rows:
            encoded = _encoded(job.inputs)
            train(policy, [encoded[row] for row in job.rows], job.training, Path(scratch))
            policy = Path(scratch)
        return job.name, [true_reward(text) for text in sample(policy, prompts, job.training.seed)]


@cache
def _encoded(inputs: Path) -> list[dict[str, Any]]:
    from pdray.demo.dpo import encode

    return encode(inputs / "policy", read_pairs(inputs))
