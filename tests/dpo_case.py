"""Small DPO runs for the tests: kept pairs as selection writes them, a stage context, trainings in one worker group."""

from __future__ import annotations

import io
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from pdray.alignment import checkpoints
from pdray.alignment.inputs import PairInput, ShardEncoder, kept_batches, prepare_input
from pdray.alignment.stage import STAGE, input_shards, reference_store
from pdray.alignment.worker import TrainingJob
from pdray.config import AlignmentConfig, RunConfig
from pdray.console import Console
from pdray.progress import Progress
from pdray.responses import cut_rule
from pdray.schema import KEPT, PAIRS, SelectionOutput, kept_schema, selection_schema
from pdray.shards import ShardedFolder
from pdray.stages import StageContext
from pdray.storage import StoragePath
from tests import stages, tiny

WEIGHTS = {"helpful": 1.0, "honest": 1.0, "harmless": 1.0}


class SilentCounter:
    """Stands in for the progress line in a worker group that has none."""

    def set(self, done: int, total: int, part: Any = None) -> None:
        """Nobody watches."""

    def started(self) -> None:
        """Nobody watches."""


def alignment(policy: Path, **options: Any) -> AlignmentConfig:
    """Settings under which a tiny policy moves within a few steps."""
    defaults = {"learning_rate": 1e-3, "pairs_per_step": 4, "held_out": 0.1, "save_steps": 2, "max_tokens": 64}
    return AlignmentConfig(policy=str(policy), **{**defaults, **options})


def pair_ids(count: int) -> list[str]:
    """Ids of the pairs of :func:`write_kept`."""
    return [f"pair-{i:04}" for i in range(count)]


def divergence(pair_id: str) -> float:
    """PD of a pair of :func:`write_kept`, between −2 and 2."""
    return (int(pair_id[-4:]) * 37 % 81 - 40) / 20


def selection_pairs(ids: list[str]) -> pa.Table:
    """The table ``pairs`` of a shard that keeps some ids, with pairs that it does not keep between them."""
    rows = [{"pair_id": one, "pd": divergence(one), "kept": True} for one in ids]
    rows += [{"pair_id": f"{one}-left", "pd": 7.0, "kept": False} for one in ids[::3]]
    return pa.Table.from_pylist(rows, selection_schema([])).sort_by("pair_id")


def write_kept(folder: Path, count: int, chat: bool = False, longest: int = 10, split: float = 1 / 3) -> ShardedFolder:
    """Kept pairs with random words in two shards, of which the first takes ``split``, as selection writes them."""
    draw = random.Random(0)

    def words(most: int) -> str:
        return " ".join(draw.choice(tiny.WORDS) for _ in range(draw.randint(3, most)))

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    rows = [
        {
            "pair_id": pair_id,
            "prompt": turn("user", words(longest)),
            "chosen": turn("assistant", f" kind {words(longest)}"),
            "rejected": turn("assistant", f" bad {words(longest)}"),
            "aspect": ("helpful", "honest")[number % 2],
        }
        for number, pair_id in enumerate(pair_ids(count))
    ]
    draw.shuffle(rows)
    shards, first = ShardedFolder(StoragePath(str(folder)), "test", 2), int(count * split)
    for shard, chunk in enumerate((rows[:first], rows[first:])):
        kept = pa.Table.from_pylist(chunk, kept_schema(chat)).sort_by("pair_id")
        shards.write(shard, {PAIRS: selection_pairs(kept["pair_id"].to_pylist()), KEPT: kept}, 0, {})
    return shards


def encoder(run: Path, selection: ShardedFolder, settings: AlignmentConfig, seed: int = 3) -> ShardEncoder:
    """The input step of a run, as the stage sets it up."""
    target = input_shards(StoragePath(str(run)), selection, settings, seed)
    rule = cut_rule(settings.max_tokens, settings.prompt_tokens)
    return ShardEncoder(partial(kept_batches, selection), target, settings.policy, rule, seed, WEIGHTS)


def prepare(run: Path, selection: ShardedFolder, settings: AlignmentConfig, seed: int = 3) -> PairInput:
    """The input step of a run; needs a Ray session."""
    progress = Progress(Console(io.StringIO(), io.StringIO()), "test")
    return prepare_input(encoder(run, selection, settings, seed), progress)


def training_job(run: Path, folder: Path, selection: ShardedFolder, settings: AlignmentConfig) -> TrainingJob:
    """What the stage would hand to the workers; needs a Ray session."""
    folder.mkdir()
    store = reference_store(StoragePath(str(run)), settings)
    return TrainingJob(settings, 3, prepare(run, selection, settings), store, folder, SilentCounter())


def context(
    folder: Path, selection: ShardedFolder, settings: AlignmentConfig, pairs: int, seed: int = 3
) -> StageContext:
    """What the pipeline would hand to the alignment stage."""
    config = RunConfig.model_validate(
        {
            "run": str(folder),
            "seed": seed,
            "corpus": {"path": "unused"},
            "proxies": {"base_model": "unused"},
            "alignment": settings.model_dump(),
        }
    )
    output = SelectionOutput(selection.num_shards, pairs, conversational=False, weights=WEIGHTS)
    upstream = stages.finished("selection", selection.folder, output)
    sections = {name: getattr(config, name) for name in type(config).model_fields}
    return stages.context(STAGE, folder, upstream=upstream, **sections)


def small_checkpoint(folder: Path, step: int, weights: str = "model.safetensors", **facts: int) -> Path:
    """A complete checkpoint of a stage folder that holds one weight and an empty log."""
    path = folder / checkpoints.CHECKPOINTS / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / weights).write_bytes(save({"step": np.array([step])}))
    (path / "trainer_state.json").write_text('{"log_history": []}')
    checkpoints.mark(path, {"step": step, "max_steps": 1000, **facts})
    return path
