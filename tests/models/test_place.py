"""A model folder on object storage is read as one on a disk is, from a copy on the node."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from pdray.errors import UserError
from pdray.identity import model_identity
from pdray.models.folder import check_model_folder, read_config
from pdray.models.loading import load_tokenizer_files, load_weights
from pdray.models.place import on_this_node
from pdray.models.pooling import stated_pooling
from pdray.models.positions import check_positions
from pdray.models.vocabulary import check_same_vocabulary
from pdray.storage import StoragePath, copy_folder
from tests.s3 import S3Server
from tests.tiny import tiny_bert

NAME = "proxies.base_model"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole one; copies of this node go to a folder of the test."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    folder = tiny_bert(tmp_path / "model", max_positions=64)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


@pytest.fixture
def uri(s3_server: S3Server, model: Path) -> str:
    """The same on a real S3 server."""
    found = s3_server.uri(f"models/{uuid.uuid4().hex}/a model")
    copy_folder(model, StoragePath(found))
    return found


def test_it_is_checked_and_identified_as_the_folder_is(model: Path, uri: str) -> None:
    check_model_folder(NAME, uri, "reward")
    assert model_identity(uri) == model_identity(model)
    assert read_config("", uri) == read_config("", str(model))
    assert stated_pooling("", uri) == "mean"
    check_same_vocabulary("one", uri, "other", str(model))
    with pytest.raises(UserError, match=r"scores\.max_tokens is 65, but s3://.* reads at most 64 tokens"):
        check_positions("scores.max_tokens", 65, uri)


def test_it_is_loaded_as_the_folder_is(model: Path, uri: str) -> None:
    from transformers import AutoModelForSequenceClassification

    assert load_tokenizer_files(uri).get_vocab() == load_tokenizer_files(str(model)).get_vocab()
    one, other = (
        load_weights("", folder, AutoModelForSequenceClassification).state_dict() for folder in (uri, str(model))
    )
    assert one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def test_what_is_wrong_with_it_names_the_uri(s3_server: S3Server, model: Path, uri: str) -> None:
    with pytest.raises(UserError, match=r"no file lies at s3://bucket/models/none.*, where a model should be; correct"):
        check_model_folder(NAME, s3_server.uri("models/none"), "backbone")
    (StoragePath(uri) / "model.safetensors").delete()
    with pytest.raises(UserError, match=r"proxies.base_model is s3://.* holds no weights"):
        check_model_folder(NAME, uri, "reward")
    with pytest.raises(UserError, match=r"nowhere://bucket cannot be opened .* use a local path, s3://"):
        check_model_folder("alignment.policy", "nowhere://bucket/model", "policy")


def test_what_replaces_it_in_place_is_another_model(model: Path, uri: str) -> None:
    before = model_identity(uri)
    weights = StoragePath(uri) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    time.sleep(1.1)  # S3 tells times in seconds
    weights.write_bytes(bytes(data))
    assert model_identity(uri) != before


def test_workers_of_a_node_copy_it_once(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    copy_files = pafs.copy_files

    def counted(source: str, *more: Any, **options: Any) -> None:
        copied.append(source)
        copy_files(source, *more, **options)

    monkeypatch.setattr(pafs, "copy_files", counted)
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(on_this_node, [uri] * 8))) == 1
    assert len(copied) == 1


def test_a_local_folder_is_where_it_is(model: Path) -> None:
    assert on_this_node(str(model)) == str(model)
