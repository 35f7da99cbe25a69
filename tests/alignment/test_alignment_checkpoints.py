"""Only what was marked complete counts, and a policy folder appears whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from pdray.alignment import checkpoints
from tests.dpo_case import small_checkpoint


def _checkpoint(folder: Path, step: int, marked: bool = True, max_steps: int = 20) -> Path:
    path = folder / "checkpoints" / f"checkpoint-{step}"
    (path / f"global_step{step}").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(save({"step": np.array([step])}))
    for name in ("config.json", "tokenizer.json"):
        (path / name).write_text(f"{name} {step}")
    for name in ("latest", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "zero_to_fp32.py"):
        (path / name).touch()
    (path / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss": 0.7}]}))
    if marked:
        checkpoints.mark(path, {"step": step, "max_steps": max_steps})
    return path


def test_latest_is_the_highest_marked_step(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None
    _checkpoint(tmp_path, 4)
    newest = _checkpoint(tmp_path, 10)
    half = _checkpoint(tmp_path, 12, marked=False)
    assert checkpoints.latest(tmp_path) == newest
    checkpoints.remove_incomplete(tmp_path)
    assert not half.exists()
    assert newest.exists()


def test_finished_only_at_the_last_step(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 18)
    assert checkpoints.finished(tmp_path) is None
    _checkpoint(tmp_path, 20, marked=False)
    assert checkpoints.finished(tmp_path) is None
    checkpoints.mark(tmp_path / "checkpoints" / "checkpoint-20", {"step": 20, "max_steps": 20})
    assert checkpoints.finished(tmp_path) == tmp_path / "checkpoints" / "checkpoint-20"


@pytest.mark.parametrize("name", ["complete.json", "trainer_state.json", "model.safetensors"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"log_history": 7, "step": "x"}'])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, name: str, text: str) -> None:
    whole, damaged = _checkpoint(tmp_path, 18), _checkpoint(tmp_path, 20)
    (damaged / name).write_text(text)
    assert (checkpoints.finished(tmp_path), checkpoints.latest(tmp_path)) == (None, whole)
    checkpoints.remove_incomplete(tmp_path)
    assert not damaged.exists()


def test_adapters_are_all_that_a_training_of_them_saves(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path, 20, weights="adapter_model.safetensors")
    assert checkpoints.latest(tmp_path) == path
    (path / "adapter_model.safetensors").write_bytes(b"{")
    assert checkpoints.latest(tmp_path) is None


def test_policy_holds_the_model_and_nothing_of_the_trainer(tmp_path: Path) -> None:
    policy = checkpoints.publish_policy(_checkpoint(tmp_path, 20), tmp_path)
    assert {path.name for path in policy.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}
    (policy / "stale").touch()
    checkpoints.publish_policy(tmp_path / "checkpoints" / "checkpoint-20", tmp_path)
    assert not (policy / "stale").exists()


def test_interrupted_copy_leaves_no_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("pdray.alignment.checkpoints._link", full)
    with pytest.raises(OSError, match="no space"):
        checkpoints.publish_policy(_checkpoint(tmp_path, 20), tmp_path)
    assert not (tmp_path / "policy").exists()


def test_policy_is_copied_where_links_are_not_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr("os.link", refuse)
    policy = checkpoints.publish_policy(_checkpoint(tmp_path, 20), tmp_path)
    assert (policy / "config.json").read_text() == "config.json 20"


def test_history_is_one_entry_a_line(tmp_path: Path) -> None:
    history = checkpoints.read_history(_checkpoint(tmp_path, 20))
    checkpoints.write_history(tmp_path, [*history, {"step": 2, "loss": 0.6}])
    lines = (tmp_path / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [0.7, 0.6]
