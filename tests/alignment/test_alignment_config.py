"""The DeepSpeed configuration as a function of the settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pdray.alignment import environment
from pdray.alignment.deepspeed import deepspeed_config, merged
from pdray.errors import UserError
from tests.dpo_case import alignment

POLICY = Path("/models/policy")
OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": False}}}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_stage_is_the_one_asked_for(stage: int) -> None:
    zero = deepspeed_config(alignment(POLICY, zero_stage=stage))["zero_optimization"]
    assert zero["stage"] == stage
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) is (stage == 3)


def test_what_accelerate_knows_is_left_to_it() -> None:
    config = deepspeed_config(alignment(POLICY))
    automatic = [key for key, value in config.items() if value == "auto"]
    assert automatic == [
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ]
    assert config["optimizer"]["params"]["lr"] == "auto"


def test_torch_adam_wherever_nothing_is_offloaded() -> None:
    def torch_adam(**options: object) -> bool:
        return deepspeed_config(alignment(POLICY, **options))["optimizer"]["params"].get("torch_adam", False)

    assert torch_adam()
    assert torch_adam(gpus_per_worker=1)
    assert not torch_adam(deepspeed=OFFLOAD)
    assert torch_adam(deepspeed={"zero_optimization": {"offload_optimizer": {"device": "none"}}})


def test_user_settings_are_merged_key_by_key() -> None:
    config = deepspeed_config(alignment(POLICY, zero_stage=2, deepspeed={**OFFLOAD, "gradient_clipping": 0.5}))
    assert config["zero_optimization"] == {"stage": 2, **OFFLOAD["zero_optimization"]}
    assert config["gradient_clipping"] == 0.5
    assert config["optimizer"]["type"] == "AdamW"


def test_optimizer_of_another_type_replaces_the_block() -> None:
    base = {"optimizer": {"type": "AdamW", "params": {"betas": "auto"}}}
    lion = {"optimizer": {"type": "Lion", "params": {"lr": 1e-5}}}
    assert merged(base, lion) == lion
    assert merged(base, {"optimizer": {"params": {"eps": 1e-6}}})["optimizer"]["params"] == {
        "betas": "auto",
        "eps": 1e-6,
    }
    assert base["optimizer"]["params"] == {"betas": "auto"}, "the base was changed"


@pytest.mark.parametrize("key", ["train_batch_size", "gradient_accumulation_steps", "bf16"])
def test_what_another_setting_decides_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"alignment\.deepspeed\.{key} is 8, but alignment\.\w+.* decides it"):
        deepspeed_config(alignment(POLICY, deepspeed={key: 8}))


def test_operators_to_compile() -> None:
    assert environment.operators(alignment(POLICY)) == ["ShareMemCommBuilder"]
    assert environment.operators(alignment(POLICY, deepspeed=OFFLOAD)) == ["ShareMemCommBuilder", "CPUAdamBuilder"]
    assert environment.operators(alignment(POLICY, gpus_per_worker=1)) == []


def test_environments_share_no_compiled_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compiles anew where its own files lie elsewhere than those that a cached operator was made of."""
    here = environment.extensions_folder()
    assert here == environment.extensions_folder()
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert environment.extensions_folder() != here


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"finds no C\+\+ compiler c\+\+; install one"):
        environment.build_operators(["ShareMemCommBuilder"])


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_lock_is_named_and_never_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    for name in ("deepspeed", "deepspeed.accelerator"):  # which takes a while to import, and is not reached
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(get_accelerator=None))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    make(tmp_path / ".pdray-lock")
    with pytest.raises(UserError, match=rf"^{tmp_path}/\.pdray-lock is no file; remove it and run again"):
        environment.build_operators(["ShareMemCommBuilder"])


def test_setup_comes_as_far_as_the_compiler(tmp_path: Path) -> None:
    """``make setup`` compiles ahead by this command, and goes on without a word where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {"PATH": str(tmp_path)}
    words = [sys.executable, "-m", "pdray.alignment.environment"]
    found = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert "finds no C++ compiler c++" in found.stderr
