"""A small corpus for the scores stage, and the stage run on it."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pdray.config import ScoresConfig
from pdray.scoring import stage
from pdray.scoring.engine import EngineLoader, load_engine
from pdray.stages import StageResult
from tests.stages import run_stage
from tests.tiny import WORDS

ASPECTS = ["clarity", "honesty", "tone"]


def make_pairs(num_pairs: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    words = WORDS.split()

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    return [
        {
            "pair_id": f"pair-{index:04}",
            "prompt": text(3, 30),
            "chosen": text(1, 20),
            "rejected": text(1, 20),
            "aspect": rng.choice(ASPECTS),
            "conflict": rng.choice([None, True, False]),
            "overall": 1,
        }
        for index in range(num_pairs)
    ]


def as_messages(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs as a chat corpus that carries nothing optional."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [
        {"pair_id": pair["pair_id"], "aspect": pair["aspect"]}
        | {name: [{"role": role, "content": pair[name]}] for name, role in roles.items()}
        for pair in pairs
    ]


def write_corpus(folder: Path, pairs: list[dict[str, Any]], num_files: int = 1) -> Path:
    (folder / "pairs").mkdir(parents=True)
    table = pa.Table.from_pylist(pairs)
    bounds = [len(pairs) * i // num_files for i in range(num_files + 1)]
    for index in range(num_files):
        part = table.slice(bounds[index], bounds[index + 1] - bounds[index])
        pq.write_table(part, folder / "pairs" / f"{index}.parquet", row_group_size=37)
    return folder


def score(
    folder: Path, corpus: Path, models: dict[str, Path], load: EngineLoader = load_engine, **scores: Any
) -> tuple[StageResult, pa.Table]:
    """Run the stage; its result and the scores sorted by pair_id."""
    config = ScoresConfig.model_validate({"max_tokens": 48, "parity_rows": 6, "batch_size": 16} | scores)
    rows = ds.dataset(corpus / "pairs").count_rows()
    manifests = {
        "corpus": {"rows_out": rows},
        "proxies": {"metrics": {"aspects": {aspect: {"path": str(path)} for aspect, path in models.items()}}},
    }
    module = SimpleNamespace(run=partial(stage.run, load=load))
    result = run_stage(module, folder, {"corpus": corpus}, manifests, scores=config)
    return result, ds.dataset(folder / "scores").to_table().sort_by("pair_id")
