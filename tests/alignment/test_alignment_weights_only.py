"""Nothing that a checkpoint names is ever run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pdray.alignment.weights_only import FORCED, check_checkpoint
from pdray.errors import UserError


class Poison:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


def _checkpoint(folder: Path, content: object) -> Path:
    step = folder / "checkpoint-2" / "global_step2"
    step.mkdir(parents=True)
    torch.save(content, step / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder / "checkpoint-2"


def test_what_deepspeed_loads_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for everything, and gets no more than tensors; without the variable the file below is created."""
    checkpoint = _checkpoint(tmp_path, {"step": 2, "poison": Poison(tmp_path / "created")})
    (file,) = checkpoint.rglob("*.pt")
    monkeypatch.setenv(FORCED, "1")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(file, weights_only=False)
    assert not (tmp_path / "created").exists()


def test_a_checkpoint_of_tensors_is_taken(tmp_path: Path) -> None:
    check_checkpoint(_checkpoint(tmp_path, {"step": 2, "exp_avg": torch.ones(3)}))


def test_a_checkpoint_that_names_anything_else_is_refused_unread(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, Poison(tmp_path / "created"))
    with pytest.raises(
        UserError, match=r"optim_states\.pt holds io\.open, which no checkpoint .* remove .*checkpoint-2"
    ):
        check_checkpoint(checkpoint)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04 half a file"])
def test_what_is_no_file_of_torchs_is_refused(tmp_path: Path, content: bytes) -> None:
    checkpoint = _checkpoint(tmp_path, {})
    (checkpoint / "rng_state_0.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"rng_state_0\.pth holds no tensors"):
        check_checkpoint(checkpoint)
