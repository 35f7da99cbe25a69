"""Stands in for the shared text pass until it is merged: Transformers in this process, shard by shard."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class TextPass:
    models: list[Any]
    rule: Any
    corpus: Any
    target: Any
    rows: Any
    write: Any
    scores: Any


@dataclass(frozen=True)
class PassResult:
    markers: dict[int, Any]
    rates: dict[str, float]

    def total(self, fact: str) -> int:
        return sum(marker.facts[fact] for marker in self.markers.values())


def run_text_pass(text_pass: TextPass, progress: Any, what: str) -> PassResult:
    from transformers import AutoModelForSequenceClassification

    from pdray.proxies.base import load_tokenizer
    from pdray.proxies.heads import logits
    from pdray.tokens import TextEncoder

    folder = text_pass.models[0].uri
    tokenizer = load_tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    encoder = TextEncoder(tokenizer, text_pass.rule)
    done = text_pass.target.done()
    for shard in range(text_pass.target.num_shards):
        if shard in done:
            continue
        texts = text_pass.corpus.read("texts", shard)
        rows = text_pass.rows(shard, len(texts))
        texts = texts.take(rows)
        encoded = encoder.encode(texts["prompt"].to_pylist(), texts["response"].to_pylist())
        outputs = logits(model, encoded.ids, tokenizer.pad_token_id).astype(np.float32)
        known = SimpleNamespace(num_tokens=np.array(encoded.num_tokens), truncated=np.array(encoded.truncated))
        tables, facts = text_pass.write(shard, rows, outputs, known)
        text_pass.target.write(shard, tables, 0, facts | {"truncated": sum(encoded.truncated)})
    return PassResult(text_pass.target.done(), {"texts_per_second": 0.0})


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pdray.engines.shards")
    module.TextPass, module.run_text_pass = TextPass, run_text_pass  # type: ignore[attr-defined]
    package = ModuleType("pdray.engines")
    monkeypatch.setitem(sys.modules, "pdray.engines", package)
    monkeypatch.setitem(sys.modules, "pdray.engines.shards", module)
