"""Corpora and models for the scoring benchmark, for pdray as shards and for its peers as token ids."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdray.schema import (
    PAIRS,
    CorpusOutput,
    ProxiesOutput,
    RewardModel,
    pairs_schema,
)
from pdray.shards import ShardedFolder
from pdray.stages import Upstream
from pdray.storage import StoragePath
from pdray.texts import text_tables

ASPECTS = ["coherence", "consistency", "fluency", "relevance"]
TEXTS_PER_PROMPT = 16
TEXTS_PER_SHARD = 2048
MOST_PROMPTS = 768  # of the demo, each with twice as many responses as are taken of it, on the mean
FINGERPRINT = "benchmark"


def partners(count: int, repetition: int) -> list[tuple[int, int]]:
    """Pairs among ``count`` texts (an even number) so that each stands in ``repetition`` of them: 1, 3 or all."""
    half = [(one, one + count // 2) for one in range(count // 2)]
    if repetition == 1:
        return half
    ring = [(one, (one + 1) % count) for one in range(count)]
    return half + ring if repetition == 3 else list(combinations(range(count), 2))


def make_data(path: Path) -> Path:
    """Write the demo's responses, enough for most of its prompts, as a file that :func:`make_corpus` reads."""
    from pdray.demo.world import make_pairs

    columns = {"prompt": "prompt", "chosen": "response_a", "rejected": "response_b"}
    pairs = [{name: pair[key] for key, name in columns.items()} for pair in make_pairs(TEXTS_PER_PROMPT * MOST_PROMPTS)]
    pq.write_table(pa.Table.from_pylist(pairs), path)
    return path


def make_corpus(
    data: Path, folder: Path, models: Path, prompts: int, kappa: int, repetition: int, max_tokens: int
) -> dict[str, Any]:
    """Write a corpus of the first prompts: ``corpus/`` in shards, ``texts.parquet`` (ids) and ``pairs.parquet``.

    Returns:
        ``kappa``, ``repetition``, ``pairs`` and distinct ``texts``.
    """
    from pdray.config import ScoresConfig
    from pdray.engines.encode import ModelEncoder
    from pdray.tokens import token_rule

    table = pq.read_table(data)
    responses: dict[str, dict[str, None]] = {}
    for side in ("response_a", "response_b"):
        for prompt, response in zip(table["prompt"].to_pylist(), table[side].to_pylist(), strict=True):
            responses.setdefault(prompt, {})[response] = None
    full = [prompt for prompt in sorted(responses) if len(responses[prompt]) >= TEXTS_PER_PROMPT][:prompts]
    assert len(full) == prompts, f"{data} has only {len(full)} prompts with {TEXTS_PER_PROMPT} responses"
    texts = [{"prompt": p, "response": r} for p in full for r in sorted(sorted(responses[p])[:TEXTS_PER_PROMPT])]
    pairs = [
        {"chosen": number * TEXTS_PER_PROMPT + a, "rejected": number * TEXTS_PER_PROMPT + b}
        for number in range(prompts)
        for a, b in partners(TEXTS_PER_PROMPT, repetition)
    ]
    shards = ShardedFolder(StoragePath(str(folder / "corpus")), FINGERPRINT, -(-len(texts) // TEXTS_PER_SHARD))
    for shard in range(shards.num_shards):
        start = shard * TEXTS_PER_SHARD
        mine = texts[start : start + TEXTS_PER_SHARD]
        rows = [
            {
                "pair_id": f"{number:08}",
                "aspect": ASPECTS[number % kappa],
                "chosen_row": pair["chosen"] - start,
                "rejected_row": pair["rejected"] - start,
            }
            for number, pair in enumerate(pairs)
            if start <= pair["chosen"] < start + len(mine)
        ]
        tables = {
            **text_tables([text["prompt"] for text in mine], [text["response"] for text in mine], False),
            PAIRS: pa.Table.from_pylist(rows, pairs_schema([])),
        }
        shards.write(shard, tables, 0, {"texts": len(mine), "pairs": len(rows)})
    encoder = ModelEncoder([models / f"{kappa}-labels"], token_rule(ScoresConfig(max_tokens=max_tokens)))
    ids = encoder.encode(pa.Table.from_pylist(texts)).ids[0]
    pq.write_table(pa.table({"ids": pa.array(ids, pa.list_(pa.int32()))}), folder / "texts.parquet")
    aspects = [number % kappa for number in range(len(pairs))]
    pq.write_table(pa.Table.from_pylist(pairs).append_column("aspect", pa.array(aspects)), folder / "pairs.parquet")
    return {"kappa": kappa, "repetition": repetition, "pairs": len(pairs), "texts": len(texts)}


def upstream(corpus: Path, model: Path) -> Upstream:
    """What corpus and proxies would hand over to the scores stage."""
    texts, pairs = (pq.read_metadata(corpus / f"{name}.parquet").num_rows for name in ("texts", "pairs"))
    aspects = ASPECTS[: int(model.name.partition("-")[0])]
    shards = -(-texts // TEXTS_PER_SHARD)
    return Upstream(
        folders={"corpus": StoragePath(str(corpus / "corpus")), "proxies": StoragePath(str(model.parent))},
        fingerprints=dict.fromkeys(("corpus", "proxies"), FINGERPRINT),
        corpus=CorpusOutput(shards, pairs, texts, aspects, {}, conversational=False),
        proxies=ProxiesOutput([RewardModel(str(model), list(aspects))], dict.fromkeys(aspects, 0.0)),
    )


def make_models(backbone: Path | None, folder: Path, most: int) -> Path:
    """Write ``<κ>-labels`` and ``<κ>-models/<number>`` with the same seeded random heads, for κ up to ``most``."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from pdray.models import packaged

    if backbone is None:
        backbone = folder / "minilm"
        packaged.build("minilm", backbone)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    for kappa in range(1, most + 1):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=kappa, dtype=torch.float32)
        model.classifier.weight.data.normal_(std=0.1)
        _save(model, tokenizer, folder / f"{kappa}-labels")
        head = model.classifier
        for label in range(kappa):
            one = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
            one.classifier.weight.data.copy_(head.weight.data[label : label + 1])
            one.classifier.bias.data.copy_(head.bias.data[label : label + 1])
            one.bert.pooler.load_state_dict(model.bert.pooler.state_dict())
            _save(one, tokenizer, folder / f"{kappa}-models" / str(label))
    return folder


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
