"""The proxies stage on real Ray, Ray Train and TRL with tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from pdray.errors import UserError
from pdray.proxies import stage
from pdray.stages import StageResult
from pdray.tokens import PairEncoder
from tests.proxies.cases import ASPECTS, context, write_corpus
from tests.tiny import tiny_bert, tiny_llama_lm

pytestmark = pytest.mark.usefixtures("ray_local")
HEAD = {"train": "head", "epochs": 20, "learning_rate": 0.01, "batch_size": 8, "max_tokens": 32}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"), num_labels=2)


def rewards_of(folder: str, corpus: Path) -> np.ndarray:
    """Reward margins of every pair, sorted by id, from a folder read as anyone would read it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    table = ds.dataset(corpus / "pairs").to_table().sort_by("pair_id")
    encoded = PairEncoder(tokenizer, 32).encode(*(table[name].to_pylist() for name in ("prompt", "chosen", "rejected")))
    with torch.no_grad():
        chosen, rejected = (
            [model(torch.tensor([ids])).logits.item() for ids in side]
            for side in (encoded.chosen_ids, encoded.rejected_ids)
        )
    return np.subtract(chosen, rejected)


def check_learned(result: StageResult, corpus: Path) -> None:
    facts = result.metrics["aspects"]
    assert list(facts) == ASPECTS
    table = ds.dataset(corpus / "pairs").to_table(columns=["pair_id", "aspect"]).sort_by("pair_id")
    labels = np.array(table["aspect"].to_pylist())
    for aspect, fact in facts.items():
        margin = rewards_of(fact["path"], corpus)
        assert np.mean(margin[labels == aspect] > 0) > 0.9, aspect
        assert fact["held_out_accuracy"] > 0.7
        assert (fact["train_pairs"], fact["held_out_pairs"]) == (54, 6)


@pytest.fixture(scope="module")
def head_run(ray_local: None, tmp_path_factory: pytest.TempPathFactory, corpus: Path, bert: Path) -> StageResult:
    return stage.run(context(tmp_path_factory.mktemp("head"), corpus, {"base_model": str(bert), **HEAD}))


def test_head_on_a_frozen_encoder(head_run: StageResult, corpus: Path, bert: Path) -> None:
    from safetensors.numpy import load_file

    result = head_run
    check_learned(result, corpus)
    assert result.metrics["trained"] is True
    assert result.rows_in == 120 == result.rows_out + sum(result.dropped.values())
    features = result.metrics["features"]
    assert features["texts"] <= 240 < features["references"]  # 120 pairs; the baseline reads the same texts again
    facts = result.metrics["aspects"]["helpful"]
    assert facts["length_penalty"] == 0.001
    assert -1 <= facts["length_correlation"]["before"] <= 1
    base, proxy = load_file(bert / "model.safetensors"), load_file(Path(facts["path"]) / "model.safetensors")
    changed = {name for name in base if base[name].shape != proxy[name].shape or (base[name] != proxy[name]).any()}
    assert changed == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    written = {path.name for path in Path(facts["path"]).parent.iterdir()}
    assert written == {stage.slug(aspect) for aspect in ASPECTS}


def test_same_seed_same_weights(tmp_path: Path, head_run: StageResult, corpus: Path, bert: Path) -> None:
    again = stage.run(context(tmp_path, corpus, {"base_model": str(bert), **HEAD})).metrics["aspects"]["helpful"]
    first = head_run.metrics["aspects"]["helpful"]
    one, other = ((Path(fact["path"]) / "model.safetensors").read_bytes() for fact in (first, again))
    assert one == other
    assert again["length_correlation"] == first["length_correlation"]


def test_all_weights_of_a_decoder_with_two_workers(tmp_path: Path, corpus: Path) -> None:
    base = tiny_llama_lm(tmp_path / "base")
    proxies: dict[str, Any] = {"base_model": str(base), "train": "all", "epochs": 6, "learning_rate": 0.003}
    proxies |= {"batch_size": 4, "max_tokens": 32, "num_workers": 2, "length_penalty_form": "residual"}
    result = stage.run(context(tmp_path, corpus, proxies | {"length_baseline": False}))
    check_learned(result, corpus)
    helpful = result.metrics["aspects"]["helpful"]
    assert helpful["length_penalty"] == 0.0
    assert helpful["length_correlation"]["before"] is None
    assert result.metrics["features"] == {}


def test_too_few_pairs_reach_the_user_as_one_sentence(tmp_path: Path, bert: Path) -> None:
    few = write_corpus(tmp_path / "corpus", pairs=6, files=1)
    with pytest.raises(UserError, match=r"^the aspect 'Kind Words' has 3 pairs, which leaves 3 to train on and 0 held"):
        stage.run(context(tmp_path, few, {"base_model": str(bert), **HEAD}))


def test_more_workers_than_the_cluster_holds(tmp_path: Path, corpus: Path, bert: Path) -> None:
    with pytest.raises(UserError, match=r"needs 3 workers .* holds 2; lower proxies.num_workers"):
        stage.run(context(tmp_path, corpus, {"base_model": str(bert), **HEAD, "num_workers": 3}))
