"""A small corpus in shards, reward models, and the scores stage run on them."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import ScoresConfig
from pdray.engines.encode import ModelEncoder
from pdray.engines.engine import EngineLoader, load_engine
from pdray.schema import CorpusOutput, ProxiesOutput, RewardModel, pairs_schema
from pdray.scoring.stage import STAGE, run
from pdray.shards import ShardedFolder
from pdray.stages import StageResult, Upstream
from pdray.storage import StoragePath
from pdray.texts import text_tables
from pdray.tokens import TokenRule
from tests.stages import finished, join, run_stage
from tests.tiny import WORDS

ASPECTS = ["clarity", "honesty", "tone"]


def make_texts(num_texts: int, seed: int = 0, poison: int | None = None) -> list[tuple[str, str]]:
    """Distinct (prompt, response), several to a prompt, sorted; the text of number ``poison`` holds the word 7."""
    rng = random.Random(seed)
    words = WORDS.split()

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    prompts = [text(3, 30) for _ in range(num_texts // 3 + 1)]
    texts = sorted({(prompts[index // 3], text(2, 20)) for index in range(num_texts)})
    assert len(texts) == num_texts
    if poison is not None:
        prompt, response = texts[poison]
        texts[poison] = prompt, f"{response} 7"
    return texts


def as_messages(texts: list[tuple[str, str]]) -> list[tuple[Any, Any]]:
    return [([{"role": "user", "content": p}], [{"role": "assistant", "content": r}]) for p, r in texts]


def write_corpus(root: Path, shards: list[list[tuple[Any, Any]]], conversational: bool = False) -> Upstream:
    """The corpus stage, finished, with these texts in its shards and some pairs of neighbours."""
    folder = StoragePath(str(root / "corpus-test"))
    sharded = ShardedFolder(folder, "test", len(shards))
    num_pairs = 0
    for shard, texts in enumerate(shards):
        rows = list(range(len(texts) - 1))
        pairs = {
            "pair_id": [f"{shard}-{row}" for row in rows],
            "aspect": [ASPECTS[row % 3] for row in rows],
            "chosen_row": rows,
            "rejected_row": [row + 1 for row in rows],
            "overall": [None] * len(rows),
            "source": [None] * len(rows),
        }
        num_pairs += len(rows)
        tables = {
            **text_tables([prompt for prompt, _ in texts], [response for _, response in texts], conversational),
            "pairs": pa.table(pairs, schema=pairs_schema([])),
        }
        sharded.write(shard, tables, ids_sum=shard + 7, facts={})
    output = CorpusOutput(
        num_shards=len(shards),
        pairs=num_pairs,
        texts=sum(map(len, shards)),
        aspects=ASPECTS,
        aspect_pairs=dict.fromkeys(ASPECTS, num_pairs // 3),
        conversational=conversational,
    )
    return finished("corpus", folder, output)


def proxies_of(root: Path, *models: RewardModel, **output: Any) -> Upstream:
    """The proxies stage, finished, with these models."""
    penalty = {aspect: 0.0 for model in models for aspect in model.aspects if aspect}
    return finished("proxies", StoragePath(str(root / "proxies-test")), ProxiesOutput(list(models), penalty, **output))


def one_each(folders: dict[str, Path]) -> list[RewardModel]:
    return [RewardModel(str(folder), [aspect]) for aspect, folder in folders.items()]


def score(
    root: Path, upstream: Upstream, load: EngineLoader = load_engine, name: str = "", **scores: Any
) -> tuple[StageResult, ShardedFolder]:
    """Run the stage; its result and its shards."""
    settings: dict[str, Any] = {"max_tokens": 48, "prompt_tokens": 24, "parity_rows": 6, "engine": "transformers"}
    config = ScoresConfig.model_validate(settings | scores)
    stage = replace(STAGE, run=partial(run, load=load))
    result = run_stage(stage, root, name, upstream, scores=config)
    num_shards = upstream.corpus.num_shards if upstream.corpus else 0
    return result, ShardedFolder(StoragePath(str(root / f"scores-{name or 'test'}")), "test", num_shards)


def rewards_of(shards: ShardedFolder, aspect: str) -> np.ndarray:
    """Rewards of every text, shard after shard."""
    tables = [shards.read("texts", shard) for shard in range(shards.num_shards)]
    return np.concatenate([table[f"reward.{aspect}"].to_numpy() for table in tables])


RULE = TokenRule(48, 24)
TEXTS = make_texts(120)
SHARDS = [TEXTS[:50], [], TEXTS[50:]]


def plain_rewards(folder: Path, texts: list[tuple[str, str]]) -> np.ndarray:
    """(texts, labels) by a plain loop."""
    import torch
    from transformers import AutoModelForSequenceClassification

    table = pa.table({"prompt": [text[0] for text in texts], "response": [text[1] for text in texts]})
    ids = ModelEncoder([folder], RULE).encode(table).ids[0]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return np.stack([model(torch.tensor([one])).logits[0].numpy() for one in ids])


def upstream_of(root: Path, *proxies: RewardModel, shards: list[list[tuple[str, str]]] = SHARDS) -> Upstream:
    return join(write_corpus(root, shards), proxies_of(root, *proxies))
