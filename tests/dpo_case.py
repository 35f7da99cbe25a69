"""Small DPO runs for the tests: kept pairs as selection writes them, a stage context, trainings in one worker group."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdray.config import AlignmentConfig, RunConfig
from pdray.console import Console
from pdray.progress import Progress
from pdray.stages import StageContext
from tests import tiny


class SilentCounter:
    """Stands in for the progress line in a worker group that has none."""

    def set(self, done: int, total: int) -> None:
        """Nobody watches."""


def alignment(policy: Path, **options: Any) -> AlignmentConfig:
    """Settings under which a tiny policy moves within a few steps."""
    defaults = {"learning_rate": 1e-3, "gradient_accumulation": 2, "held_out": 0.1, "save_steps": 2, "max_tokens": 64}
    return AlignmentConfig(policy=str(policy), **{**defaults, **options})


def write_kept(folder: Path, count: int, chat: bool = False, longest: int = 10) -> Path:
    """Kept pairs with random words, in two files whose order is not that of the ids; returns selection's folder."""
    draw = random.Random(0)

    def words(most: int) -> str:
        return " ".join(draw.choice(tiny.WORDS) for _ in range(draw.randint(3, most)))

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    rows = [
        {
            "pair_id": f"pair-{i:04}",
            "prompt": turn("user", words(longest)),
            "chosen": turn("assistant", f" kind {words(longest)}"),
            "rejected": turn("assistant", f" bad {words(longest)}"),
            "aspect": "helpful",
        }
        for i in range(count)
    ]
    draw.shuffle(rows)
    (folder / "kept").mkdir(parents=True)
    for part, chunk in enumerate((rows[: count // 3], rows[count // 3 :])):
        pq.write_table(pa.Table.from_pylist(chunk), folder / "kept" / f"part-{part}.parquet")
    return folder


def context(folder: Path, selection: Path, settings: AlignmentConfig, pairs: int, seed: int = 3) -> StageContext:
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
    work = folder / "alignment"
    work.mkdir(parents=True, exist_ok=True)
    progress = Progress(Console(), "alignment")
    return StageContext(config, work, {"selection": selection}, {"selection": {"rows_out": pairs}}, progress)
