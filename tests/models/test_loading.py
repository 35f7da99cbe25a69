"""Weights that a folder lacks, or has in another size, are never random numbers without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdray.alignment import worker
from pdray.engines.engine import EngineOptions
from pdray.engines.transformers_engine import TransformersEngine
from pdray.errors import UserError
from pdray.models.loading import check_weights, load_tokenizer_files
from pdray.proxies.base import load_reward_model, load_tokenizer
from tests import dpo_case
from tests.models.cases import drop_weights, edit_json, edit_weights
from tests.tiny import tiny_bert, tiny_llama_lm, tiny_llama_reward, tiny_opt_lm

OPTIONS = EngineOptions("transformers", "float32", 64)


def start_proxy(folder: Path) -> Any:
    return load_reward_model(str(folder), load_tokenizer(str(folder)), seed=0)


def test_a_proxy_starts_from_every_weight_but_those_of_the_head(tmp_path: Path) -> None:
    start_proxy(tiny_llama_lm(tmp_path / "lm"))
    encoder = tiny_bert(tmp_path / "encoder")
    drop_weights(encoder, "pooler")
    drop_weights(encoder, "classifier")
    edit_weights(encoder, lambda weights: {name.removeprefix("bert."): tensor for name, tensor in weights.items()})
    start_proxy(encoder)


@pytest.mark.parametrize("part", ["layers.1.", "embed_tokens"])
def test_a_backbone_with_lost_weights_is_refused(tmp_path: Path, part: str) -> None:
    tiny_llama_lm(tmp_path)
    drop_weights(tmp_path, part)
    with pytest.raises(UserError, match=rf"^proxies\.base_model is .*, which lacks \d+ weights .*model\.{part}"):
        start_proxy(tmp_path)


def test_half_a_pooler_is_a_loss(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    drop_weights(tmp_path, "pooler.dense.bias")
    with pytest.raises(UserError, match=r"lacks 1 weights of a BertForSequenceClassification \(bert\.pooler"):
        start_proxy(tmp_path)


def test_a_backbone_of_another_size_is_refused(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    edit_json(tmp_path, "config.json", vocab_size=500)
    with pytest.raises(UserError, match=r"another size .*word_embeddings\.weight is \(192, 64\) and should be \(500"):
        start_proxy(tmp_path)


@pytest.mark.parametrize("part", ["score", "layers.0.mlp"])
def test_a_ready_reward_model_lacks_nothing(tmp_path: Path, part: str) -> None:
    tiny_llama_reward(tmp_path)
    TransformersEngine(str(tmp_path), OPTIONS)
    drop_weights(tmp_path, part)
    with pytest.raises(UserError, match=rf"^a reward model is .*, which lacks \d weights .*{part}"):
        TransformersEngine(str(tmp_path), OPTIONS)


@pytest.mark.parametrize("part", ["lm_head", "layers.1.self_attn"])
def test_a_policy_that_lacks_weights_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(worker, "dpo_config", lambda *unused: pytest.fail("went on to the training"))
    policy = tiny_llama_lm(tmp_path / "policy", chat=False)
    drop_weights(policy, part)
    selection = dpo_case.write_kept(tmp_path / "selection", 8)
    job = worker.TrainingJob(dpo_case.alignment(policy), 0, selection, tmp_path, SimpleNamespace(), SimpleNamespace())
    with pytest.raises(UserError, match=rf"^alignment\.policy is .*, which lacks \d weights .*{part}"):
        worker.build_trainer(job, worker.Resume())


def test_whole_policies_pass(tmp_path: Path) -> None:
    """Weights that a model shares are in its files once."""
    from transformers import AutoModelForCausalLM

    tied = tiny_opt_lm(tmp_path / "opt")
    check_weights("alignment.policy", str(tied), AutoModelForCausalLM)
    llama = tiny_llama_lm(tmp_path / "llama")
    check_weights("alignment.policy", str(llama), AutoModelForCausalLM)
    edit_json(llama, "config.json", tie_word_embeddings=True)
    drop_weights(llama, "lm_head")
    check_weights("alignment.policy", str(llama), AutoModelForCausalLM)


def test_a_tokenizer_with_code_of_its_own_neither_runs_nor_asks(tmp_path: Path) -> None:
    tiny_llama_lm(tmp_path)
    (tmp_path / "mine.py").write_text("open('ran', 'w')\nclass Mine:\n    pass\n")
    edit_json(
        tmp_path, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "mine.Mine"]}, tokenizer_class="Mine"
    )
    code = f"from pdray.models.loading import load_tokenizer_files as f; f({str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        input="y\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in done.stdout + done.stderr


def test_a_damaged_tokenizer_is_the_users_to_mend(tmp_path: Path) -> None:
    tiny_llama_lm(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"^the tokenizer in .*: Transformers cannot load it"):
        load_tokenizer_files(str(tmp_path))
