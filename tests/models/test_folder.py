"""A model folder that is not whole is refused before anything is loaded, in one sentence with the cure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pdray.config import ProxiesConfig, ScoresConfig
from pdray.errors import UserError
from pdray.models.folder import Kind, check_model_folder
from pdray.proxies.stage import check
from pdray.stages import Upstream
from tests.models.cases import drop_tokenizer, drop_weights, edit_json, shard
from tests.tiny import tiny_bert, tiny_llama_lm, tiny_llama_reward


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama_lm(tmp_path_factory.mktemp("whole") / "model")


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_shard(folder: Path) -> None:
    shard(folder)
    next(folder.glob("model-00002-*")).unlink()


def lost_tensor(folder: Path) -> None:
    shard(folder)
    files = sorted(folder.glob("model-0*"))
    shutil.copyfile(files[1], files[0])


def word_list(count: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        drop_tokenizer(folder)
        (folder / "vocab.txt").write_text("".join(f"word{index}\n" for index in range(count)))

    return change


def added_token(token: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        word_list(100)(folder)
        (folder / "added_tokens.json").write_text(f'{{"<new>": {token}}}')

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no readable config.json"),
    "empty config": (write("config.json", b""), "no readable config.json"),
    "config no JSON": (write("config.json", b"{"), "no readable config.json"),
    "config a list": (write("config.json", b"[]"), "no readable config.json"),
    "config binary": (write("config.json", b"\xff\xfe\x00"), "no readable config.json"),
    "no model type": (write("config.json", b'{"architectures": ["LlamaForCausalLM"]}'), "names no model_type"),
    "endless layers": (
        lambda folder: edit_json(folder, "config.json", num_hidden_layers=10**9),
        r"config\.json says num_hidden_layers 1000000000, more than its \d+ tensors can be",
    ),
    "endless labels": (lambda folder: edit_json(folder, "config.json", num_labels=10**9), "says num_labels 1000000000"),
    "endless token": (
        lambda folder: edit_json(folder, "tokenizer.json", added_tokens=[{"id": float("inf")}]),
        r"tokenizer\.json is damaged",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights.*copy them there"),
    "pickled weights": (pickled, r"pickled \(pytorch_model\.bin\).*save_pretrained"),
    "cut weights": (cut, r"model\.safetensors is damaged or cut off.*copy it again"),
    "empty weights": (write("model.safetensors", b""), "damaged or cut off"),
    "no tensors": (write("model.safetensors", (2).to_bytes(8, "little") + b"{}"), "hold no tensor"),
    "lost shard": (lost_shard, r"lacks 1 of the \d files that .* names, the first model-00002-of"),
    "lost tensor": (lost_tensor, r"lack \d+ weights that .*index\.json names"),
    "no tokenizer": (drop_tokenizer, "holds no tokenizer.*every word would be unknown; copy the tokenizer files"),
    "tokenizer no JSON": (write("tokenizer.json", b"{"), r"tokenizer\.json is damaged"),
    "tokenizer without words": (write("tokenizer.json", b'{"version": "1.0"}'), r"tokenizer\.json is damaged"),
    "tokenizer config a list": (write("tokenizer_config.json", b"[]"), r"no readable tokenizer_config\.json"),
    "empty word list": (word_list(0), r"vocab\.txt holds no token"),
    "model with code": (
        lambda folder: edit_json(folder, "config.json", auto_map={"AutoModel": "m.M"}),
        r"config\.json asks for Python code of its own \(auto_map\).*remove auto_map",
    ),
    "tokenizer with code": (
        lambda folder: edit_json(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}),
        r"tokenizer_config\.json asks for Python code",
    ),
    "adapter": (write("adapter_config.json", b"{}"), r"holds adapter_config\.json: .*merge the two"),
    "too many words": (word_list(193), "has a token 192, but the model has embeddings for the tokens 0 to 191 only"),
    "added token": (added_token(192), "has a token 192, but the model has embeddings"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    change(folder)
    with pytest.raises(UserError, match=message) as refusal:
        check_model_folder("alignment.policy", str(folder), "policy")
    assert str(refusal.value).startswith(f"alignment.policy is {folder}, ")
    assert "\n" not in str(refusal.value)


def test_whole_folders_are_accepted(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    check_model_folder("alignment.policy", str(folder), "policy")
    shard(folder)
    check_model_folder("alignment.policy", str(folder), "policy")
    word_list(192)(folder)
    (
        folder / "chat_template.jinja"
    ).unlink()  # with it the tokenizer is loaded, and this word list is none of its class
    check_model_folder("proxies.base_model", str(folder), "backbone")
    check_model_folder("proxies.models.kind", str(tiny_bert(tmp_path / "bert")), "reward")


def test_without_a_known_embedding_the_config_tells_the_vocabulary(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    drop_weights(tmp_path, "word_embeddings")
    edit_json(tmp_path, "config.json", vocab_size=50)
    with pytest.raises(UserError, match="embeddings for the tokens 0 to 49 only"):
        check_model_folder("proxies.base_model", str(tmp_path), "backbone")


@pytest.mark.parametrize(
    ("make", "labels", "kind", "message"),
    [
        (tiny_bert, 2, "reward", "whose head has 2 labels, but a reward is one number; name a model with num_labels 1"),
        (tiny_llama_lm, None, "reward", "a LlamaForCausalLM, but a reward model is a …ForSequenceClassification"),
        (tiny_llama_reward, 1, "policy", "a LlamaForSequenceClassification, but a policy is a …ForCausalLM"),
    ],
)
def test_another_kind_of_model(
    tmp_path: Path, make: Callable[..., Path], labels: int | None, kind: Kind, message: str
) -> None:
    make(tmp_path, **({} if labels is None else {"num_labels": labels}))
    with pytest.raises(UserError, match=message):
        check_model_folder("the setting", str(tmp_path), kind)


def test_a_config_that_names_no_architecture_is_no_policy(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "model")
    edit_json(tmp_path / "model", "config.json", architectures=None)
    with pytest.raises(UserError, match=r"whose config\.json names no architecture, but a policy"):
        check_model_folder("alignment.policy", str(tmp_path / "model"), "policy")


@pytest.mark.parametrize("model", ["proxy-base", "policy"])
@pytest.mark.parametrize("words", [["run", "--dry-run"], ["run"]])
def test_a_run_without_a_tokenizer_ends_before_it_begins(small_run_config: Path, model: str, words: list[str]) -> None:
    drop_tokenizer(small_run_config.parent / model)
    done = subprocess.run(
        [sys.executable, "-m", "pdray", *words, str(small_run_config)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{model}, which holds no tokenizer" in done.stderr
    run = Path(yaml.safe_load(small_run_config.read_text())["run"])
    assert not list(run.glob("*/manifest.json"))


def test_every_model_folder_that_is_wrong_is_named_in_one_round(tmp_path: Path) -> None:
    for name in ("one", "other"):
        drop_tokenizer(tiny_bert(tmp_path / name))
    models = {name: str(tmp_path / name) for name in ("one", "other")}
    config: Any = SimpleNamespace(proxies=ProxiesConfig(models=models), scores=ScoresConfig(max_tokens=129))
    with pytest.raises(UserError) as refusal:
        check(config, Upstream())
    told = refusal.value.sentences
    assert [sum(word in one for one in told) for word in ("no tokenizer", "at most 128 tokens")] == [2, 2]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_is_closed_to_this_user_is_not_called_damaged(
    whole: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(os, "access", lambda path, *rest, **options: Path(path).name != file)
    told = (
        rf"^{whole / file} cannot be read \(Permission denied\); open it to the user of this process, or leave it out$"
    )
    with pytest.raises(UserError, match=told):
        check_model_folder("alignment.policy", str(whole), "policy")
