"""Where a training goes on, as a group of one worker agrees on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from pdray.alignment import resume
from pdray.alignment.resume import Resume, agree_on_checkpoint
from pdray.errors import UserError
from tests.dpo_case import small_checkpoint


@pytest.fixture(autouse=True)
def one_worker(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Checkpoints that DeepSpeed was asked to convert; a real conversion is tested with a real training."""
    asked: list[Path] = []
    monkeypatch.setattr(resume, "convert", asked.append)
    return asked


def test_the_first_attempt_starts_at_the_beginning(tmp_path: Path) -> None:
    assert agree_on_checkpoint(tmp_path, 2) == Resume(None, universal=False)


@pytest.mark.parametrize(
    ("workers", "zero_stage", "universal"), [(1, 2, False), (2, 0, False), (2, 1, True), (2, 2, True), (4, 3, True)]
)
def test_parts_of_another_number_of_workers_are_converted(
    tmp_path: Path, converted: list[Path], workers: int, zero_stage: int, universal: bool
) -> None:
    small_checkpoint(tmp_path, 8, num_workers=1)
    newest = small_checkpoint(tmp_path, 10, num_workers=workers)
    found = agree_on_checkpoint(tmp_path, zero_stage)
    assert (found, found.step) == (Resume(newest, universal), 10)
    assert converted == ([newest] if universal else [])


def test_an_optimizer_that_cannot_be_converted_asks_for_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(checkpoint: Path) -> None:
        raise KeyError("exp_avg_sq")

    monkeypatch.setattr(resume, "convert", fails)
    small_checkpoint(tmp_path, 10, num_workers=4)
    with pytest.raises(
        UserError, match=r"written by 4 workers .* fit for 1 \(KeyError.*; set alignment\.num_workers to 4"
    ):
        agree_on_checkpoint(tmp_path, 2)
