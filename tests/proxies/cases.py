"""A small sharded corpus whose two aspects a tiny model can learn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import ProxiesConfig, ScoresConfig
from pdray.hashing import hash64
from pdray.schema import CorpusOutput, pairs_schema
from pdray.shards import ShardedFolder
from pdray.stages import Upstream
from pdray.storage import StoragePath
from pdray.texts import text_tables
from tests.stages import FINGERPRINT, finished
from tests.tiny import WORDS

ASPECTS = ["Kind Words", "helpful"]
PREFERRED = {"Kind Words": "kind", "helpful": "helpful"}


def make_rows(pairs: int = 120, prompts: int = 30) -> list[dict[str, str]]:
    """Pairs whose chosen response has the aspect's word and is often the longer one."""
    draw = random.Random(0)
    words = WORDS.split()
    rows = []
    for index in range(pairs):
        aspect = ASPECTS[index % 2]
        filler = [draw.choice(["the", "way", "time", "people"]) for _ in range(12)]
        number = draw.randrange(prompts)
        rows.append(
            {
                "pair_id": f"p{index:05}",
                "prompt": f"what {words[number % len(words)]} {words[number // len(words)]}",
                "chosen": " ".join([PREFERRED[aspect], *filler[: draw.choice([4, 8, 10])]]),
                "rejected": " ".join(["bad", *filler[: draw.choice([3, 6])]]),
                "aspect": aspect,
            }
        )
    return rows


def write_corpus(root: Path, rows: list[dict[str, Any]], num_shards: int = 3) -> Upstream:
    """A finished corpus stage, as the corpus room writes it."""
    folder = StoragePath(str(root / "corpus-test"))
    shards = ShardedFolder(folder, FINGERPRINT, num_shards)
    shard_of = hash64([str(row["prompt"]) for row in rows]) % np.uint64(num_shards)
    conversational = bool(rows) and not isinstance(rows[0]["prompt"], str)
    texts = 0
    for shard in range(num_shards):
        own = sorted((row for row, at in zip(rows, shard_of, strict=True) if at == shard), key=lambda r: r["pair_id"])
        keys = {repr((row["prompt"], row[side])): (row["prompt"], row[side]) for row in own for side in SIDES}
        names = sorted(keys)
        number = {name: index for index, name in enumerate(names)}
        texts += len(names)
        columns = {name: [keys[key][index] for key in names] for index, name in enumerate(("prompt", "response"))}
        pairs = [
            {
                "pair_id": row["pair_id"],
                "aspect": row["aspect"],
                **{f"{side}_row": number[repr((row["prompt"], row[side]))] for side in SIDES},
            }
            for row in own
        ]
        tables = {
            **text_tables(columns["prompt"], columns["response"], conversational),
            "pairs": pa.Table.from_pylist(pairs, schema=pairs_schema([])),
        }
        shards.write(shard, tables, 0, {})
    counts = {aspect: sum(row["aspect"] == aspect for row in rows) for aspect in ASPECTS}
    counts = {aspect: count for aspect, count in counts.items() if count}
    output = CorpusOutput(num_shards, len(rows), texts, sorted(counts), counts, conversational)
    return finished("corpus", folder, output)


SIDES = ("chosen", "rejected")


def sections(**proxies: Any) -> dict[str, Any]:
    """Config sections for the stage: 32 tokens, Transformers as the engine."""
    scores = ScoresConfig(engine="transformers", max_tokens=32, num_actors=1)
    return {"proxies": ProxiesConfig(**proxies), "scores": scores}
