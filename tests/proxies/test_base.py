"""The model a proxy starts from and the checks of ready reward models."""

import json
from pathlib import Path

import pytest

from pdray.errors import UserError
from pdray.models.folder import check_model_folder
from pdray.proxies.base import PAD, load_reward_model, load_tokenizer, save_proxy
from tests.tiny import tiny_bert, tiny_llama_lm, tiny_llama_reward


def test_pad_token_never_equals_eos(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_llama_lm(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "[UNK]"
    tokenizer.unk_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == PAD


def test_a_new_pad_token_gets_an_embedding(tmp_path: Path) -> None:
    tiny_llama_lm(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    rows = load_reward_model(str(tmp_path), tokenizer, seed=0).get_input_embeddings().num_embeddings
    tokenizer.add_tokens([f"<new-{index}>" for index in range(rows - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": PAD})
    model = load_reward_model(str(tmp_path), tokenizer, seed=0)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == rows + 1
    assert model.config.pad_token_id == tokenizer.pad_token_id
    tokenizer.add_tokens(["<one-too-many>"])
    with pytest.raises(UserError, match=rf"has a token {rows + 1}, but the model has embeddings for the tokens 0 to"):
        load_reward_model(str(tmp_path), tokenizer, seed=0)


def test_head_is_one_label_drawn_from_the_seed(tmp_path: Path) -> None:
    tiny_bert(tmp_path, num_labels=2)  # the head of another task does not fit and is drawn anew
    tokenizer = load_tokenizer(str(tmp_path))
    first, again, other = (load_reward_model(str(tmp_path), tokenizer, seed).classifier.weight for seed in (0, 0, 1))
    assert first.shape == (1, 64)
    assert first.equal(again)
    assert not first.equal(other)


def test_saved_folder_is_a_ready_model(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tiny_llama_reward(tmp_path / "base")
    tokenizer = load_tokenizer(str(tmp_path / "base"))
    save_proxy(load_reward_model(str(tmp_path / "base"), tokenizer, seed=0), tokenizer, tmp_path / "proxy")
    check_model_folder("proxies.models.kind", str(tmp_path / "proxy"), "reward")
    config = json.loads((tmp_path / "proxy" / "config.json").read_text(encoding="utf-8"))
    assert config["pad_token_id"] == AutoTokenizer.from_pretrained(tmp_path / "proxy").pad_token_id
    assert (tmp_path / "proxy" / "model.safetensors").is_file()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "proxy").num_labels == 1


def test_model_without_a_classifier_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig

    tiny_bert(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    CLIPTextConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no sequence classification head"):
        load_reward_model(str(tmp_path), tokenizer, seed=0)
