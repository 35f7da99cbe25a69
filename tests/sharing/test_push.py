"""Uploading to a stand-in for the hub: real client, real HTTP, no hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.sharing.cases import finished_run, hub_stand_in


def push(endpoint: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-m", "pdray", "push", *words]
    environment = {**clean, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_right", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_data_set_is_made_and_replaced(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    with hub_stand_in() as hub:
        hub.files["data/train-00007.parquet"] = b"of an earlier version"
        done = push(hub.endpoint, made.run.uri, "me/pairs", "--license", "mit")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{hub.endpoint}/datasets/me/pairs: 18 pairs; licence: mit\n"
    (created,) = hub.created
    assert (created["name"], created["organization"], created["type"]) == ("pairs", "me", "dataset")
    assert created["visibility"] == "private"
    assert set(hub.files) == {"README.md", "data/train-00000.parquet"}
    assert hub.deleted == ["data/train-00007.parquet"]
    assert pq.read_table(pa.BufferReader(hub.files["data/train-00000.parquet"])).num_rows == 18
    assert b"license: mit" in hub.files["README.md"]


def test_what_the_hub_refuses_is_one_sentence(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    with hub_stand_in() as hub:
        wrong = push(hub.endpoint, made.run.uri, "me/pairs", HF_TOKEN="hf_SECRET")
        named = push(hub.endpoint, made.run.uri, "pairs")
    away = push("http://127.0.0.1:9", made.run.uri, "me/pairs")
    offline = push(hub.endpoint, made.run.uri, "me/pairs", HF_HUB_OFFLINE="1")
    for done, words in (
        (wrong, "the hub refuses me/pairs"),
        (wrong, "check HF_TOKEN"),
        (named, "'pairs' names no data set; write it as owner/name"),
        (away, "http://127.0.0.1:9 cannot be reached"),
        (offline, "HF_HUB_OFFLINE keeps this machine from the hub"),
    ):
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "SECRET" not in done.stderr
