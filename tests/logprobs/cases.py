"""Texts whose responses are summed, a sum written by hand, and the logprobs stage run on a small corpus."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pdray.config import LogprobsConfig
from pdray.engines.engine import EngineLoader, load_engine
from pdray.engines.response_text import ResponseText
from pdray.logprobs.stage import STAGE, run
from pdray.shards import ShardedFolder
from pdray.stages import StageResult, Upstream
from pdray.storage import StoragePath
from tests.stages import run_stage


def random_texts(count: int = 20, longest: int = 40) -> list[ResponseText]:
    """Among them one whose response is empty, and one that is all response."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        ids = [2, *rng.choices(range(10, 100), k=rng.randint(2, longest)), 3]
        texts.append(ResponseText(ids, rng.randint(1, len(ids) - 1)))
    return [*texts, ResponseText(texts[0].ids, len(texts[0].ids)), ResponseText(texts[1].ids, 1)]


def by_hand(folder: Path, texts: list[ResponseText]) -> np.ndarray:
    """(texts,) float64: softmax in float64, token by token."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums = []
    for text in texts:
        with torch.no_grad():
            logits = model(torch.tensor([text.ids])).logits[0].double().numpy()
        total = 0.0
        for place in range(text.first, len(text.ids)):
            row = logits[place - 1]
            shifted = np.exp(row - row.max())
            total += np.log(shifted[text.ids[place]] / shifted.sum())
        sums.append(total)
    return np.array(sums)


def read(root: Path, upstream: Upstream, load: EngineLoader = load_engine, **logprobs: Any) -> tuple[StageResult, Any]:
    """Run the stage; its result and its shards."""
    settings: dict[str, Any] = {"max_tokens": 32, "parity_rows": 6, "engine": "transformers"}
    config = LogprobsConfig.model_validate(settings | logprobs)
    result = run_stage(replace(STAGE, run=partial(run, load=load)), root, upstream=upstream, logprobs=config)
    assert upstream.corpus is not None
    return result, ShardedFolder(StoragePath(str(root / "logprobs-test")), "test", upstream.corpus.num_shards)
