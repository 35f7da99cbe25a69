"""An input is its content: not its place, its times or its name's neighbours."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pdray import identity
from pdray.errors import UserError
from pdray.identity import file_identities, file_identity, folder_identity, model_identity
from pdray.store import fingerprint

OLD = 1_600_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "SETTLED_NS", -1)  # files of a test are young
    return tmp_path / "cache" / "pdray" / "identities.json"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_copy_and_a_touched_file_are_the_same_input(tmp_path):
    path = put(tmp_path / "a" / "in.jsonl", "one")
    copy = put(tmp_path / "b" / "in.jsonl", "one")
    first = file_identity(path)
    os.utime(path, (OLD, OLD))
    assert file_identity(path) == file_identity(copy) == first
    put(path, "two")  # as many bytes
    os.utime(path, (OLD, OLD))
    assert file_identity(path) != first


def test_a_file_is_read_once(tmp_path, cache, monkeypatch):
    path = put(tmp_path / "in.jsonl", "one")
    first = file_identity(path)
    assert json.loads(cache.read_text())[str(path)][-1] == first
    monkeypatch.setattr(identity.hashlib, "file_digest", None)
    assert file_identity(path) == first


def test_a_file_that_may_still_change_is_not_remembered(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(identity, "SETTLED_NS", 10**12)
    file_identity(put(tmp_path / "in.jsonl", "one"))
    assert not cache.exists()


def test_the_cache_is_bounded_and_damage_or_a_full_disk_do_no_harm(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(identity, "MAX_CACHED", 3)
    paths = [put(tmp_path / f"{i}.jsonl", str(i)) for i in range(5)]
    found = file_identities(paths)
    assert len(set(found)) == 5
    assert list(json.loads(cache.read_text())) == [str(path) for path in paths[2:]]
    for text in ("{", "[]", '{"x": 1}', "[" * 100_000):
        cache.write_text(text)
        assert file_identities(paths) == found
    cache.unlink()
    os.mkfifo(cache)
    assert file_identities(paths) == found
    assert cache.is_file()  # the digests are there again
    shutil.rmtree(cache.parent)
    cache.parent.write_text("no folder")
    assert file_identities(paths) == found


def test_a_model_is_the_files_of_its_folder(tmp_path):
    for name in ("b.safetensors", "a.json"):
        put(tmp_path / "model" / name, name)
    first = model_identity(tmp_path / "model")
    assert [name for name, _ in first] == ["a.json", "b.safetensors"]
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    put(tmp_path / "copy" / "checkpoint-1" / "a.json", "x")
    assert model_identity(tmp_path / "copy") == first
    assert [name for name, _ in folder_identity(tmp_path / "copy")] == [
        "a.json",
        "b.safetensors",
        "checkpoint-1/a.json",
    ]
    put(tmp_path / "copy" / "a.json", "another")
    assert model_identity(tmp_path / "copy") != first


def test_a_name_that_is_not_utf_8_has_an_identity(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json")).touch()
    assert fingerprint(model_identity(tmp_path)) == fingerprint(model_identity(tmp_path))
    assert [name for name, _ in model_identity(tmp_path)] == ["\\udcff.json"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"x\.jsonl cannot be read \(Input/output error\); open it"):
        file_identity(tmp_path / "x.jsonl")


def test_a_model_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def closed(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(UserError, match=rf"^{tmp_path} cannot be read \(Permission denied\); open it to the user"):
        model_identity(tmp_path)
