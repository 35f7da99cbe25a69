"""The logprobs stage on real Ray: both engines, with and without a chat template, again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdray.engines.response_text import ResponseEncoder
from pdray.models.loading import load_tokenizer_files
from pdray.responses import CutRule
from pdray.schema import logprobs_schema
from tests.logprobs.cases import by_hand, read
from tests.scoring.cases import as_messages, make_texts, write_corpus
from tests.tiny import tiny_llama_lm

pytestmark = pytest.mark.usefixtures("ray_local")
TEXTS = make_texts(60)


@pytest.mark.parametrize(
    ("engine", "chat"), [pytest.param("transformers", True, marks=pytest.mark.slow), ("vllm", False)]
)
def test_every_text_gets_its_log_probabilities(tmp_path: Path, engine: str, chat: bool) -> None:
    models = {"policy": tiny_llama_lm(tmp_path / "policy", chat=chat)}
    if chat:
        models["reference"] = tiny_llama_lm(tmp_path / "reference", seed=1, chat=False)
    texts = as_messages(TEXTS) if chat else TEXTS
    upstream = write_corpus(tmp_path, [texts[:25], [], texts[25:]], conversational=chat)
    folders = {name: str(folder) for name, folder in models.items()}
    result, shards = read(tmp_path, upstream, engine=engine, cpu_cache_gib=0.1, **folders)
    encoder = ResponseEncoder(load_tokenizer_files(folders["policy"]), CutRule(32, 16))
    encoded = encoder.encode(*([text[side] for text in texts] for side in (0, 1)))
    tables = [shards.read("texts", shard) for shard in range(3)]
    assert [len(table) for table in tables] == [25, 0, 35]
    assert all(table.schema.remove_metadata() == logprobs_schema(list(models)) for table in tables)

    def column(name: str) -> np.ndarray:
        return np.concatenate([table[name].to_numpy(zero_copy_only=False) for table in tables])

    for name, folder in models.items():
        np.testing.assert_allclose(column(f"logp.{name}"), by_hand(folder, encoded.ids), atol=5e-4)
    assert column("num_tokens").tolist() == encoded.num_tokens
    assert column("truncated").tolist() == encoded.truncated
    metrics = result.metrics
    assert (metrics["models"], metrics["computed"], metrics["failed"]) == (list(models), 60, 0)
    assert 0 <= metrics["max_parity_error"] < 1e-3
    assert 0 < metrics["truncated"] == sum(encoded.truncated) < 60
    assert any(
        "texts were cut to logprobs.max_tokens = 32: a long prompt lost its beginning" in n for n in result.notes
    )
    if engine == "transformers":
        shards.marker_path(2).delete()
        before = shards.table("texts", 0).info().mtime_ns
        again, _ = read(tmp_path, upstream, engine=engine, **folders)
        assert again.metrics["shards_digest"] == metrics["shards_digest"]
        assert shards.table("texts", 0).info().mtime_ns == before
