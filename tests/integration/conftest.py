"""Fixtures of several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdray.schema import RewardModel
from tests.scoring.cases import ASPECTS
from tests.tiny import tiny_bert


@pytest.fixture
def bert(tmp_path: Path) -> RewardModel:
    """One model for all aspects, in a folder of its own for what the doubles leave beside it."""
    folder = tiny_bert(tmp_path / "model" / "bert", num_labels=3, seed=3)
    return RewardModel(str(folder), list(ASPECTS), head="classifier")
