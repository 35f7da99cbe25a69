"""A small corpus whose two aspects a tiny model can learn, and a context to run the stage on it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdray.config import RunConfig
from pdray.console import Console
from pdray.progress import Progress
from pdray.stages import StageContext

ASPECTS = ["Kind Words", "helpful"]
PREFERRED = {"Kind Words": "kind", "helpful": "helpful"}


def write_corpus(folder: Path, pairs: int = 120, files: int = 3) -> Path:
    """A finished corpus stage: the chosen response has the aspect's word, and is often the longer one."""
    draw = random.Random(0)
    rows = []
    for index in range(pairs):
        aspect = ASPECTS[index % 2]
        filler = [draw.choice(["the", "way", "time", "people"]) for _ in range(12)]
        chosen = " ".join([PREFERRED[aspect], *filler[: draw.choice([4, 8, 10])]])
        rejected = " ".join(["bad", *filler[: draw.choice([3, 6])]])
        prompt = f"what {draw.choice(['day', 'people', 'question'])}"
        rows.append(
            {"pair_id": f"p{index:04}", "prompt": prompt, "chosen": chosen, "rejected": rejected, "aspect": aspect}
        )
    (folder / "pairs").mkdir(parents=True)
    for file in range(files):
        pq.write_table(pa.Table.from_pylist(rows[file::files]), folder / "pairs" / f"{file}.parquet")
    return folder


def context(root: Path, corpus: Path, proxies: dict[str, Any], aspects: list[str] | None = None) -> StageContext:
    """A context of the proxies stage with an empty folder."""
    config = RunConfig.model_validate({"corpus": {"path": str(corpus)}, "proxies": proxies})
    folder = root / "proxies"
    folder.mkdir(parents=True)
    return StageContext(
        config=config,
        folder=folder,
        inputs={"corpus": corpus},
        manifests={"corpus": {"metrics": {"aspects": aspects or ASPECTS}}},
        progress=Progress(Console(io.StringIO(), io.StringIO()), "proxies"),
    )
