"""Scoring uses nodes that come in the middle of it, started by hand or by Ray's own autoscaler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from tests.elastic import SHARDS
from tests.scoring.cases import ASPECTS, TEXTS, plain_rewards, rewards_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(folder: Path, *words: str) -> dict[str, Any]:
    """What :mod:`tests.elastic` tells; the rewards are those of a plain loop."""
    command = [sys.executable, "-m", "tests.elastic", str(folder), *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    shards = ShardedFolder(StoragePath(str(folder / "scores-test")), "test", SHARDS)
    expected = plain_rewards(folder / "model" / "bert", TEXTS)
    for label, aspect in enumerate(ASPECTS):
        np.testing.assert_allclose(rewards_of(shards, aspect), expected[:, label], atol=1e-4)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert sum(told["calls"]) >= SHARDS
    return told


@pytest.mark.parametrize("num_actors", ["null", "2"])
def test_a_node_that_joins_is_used(tmp_path: Path, num_actors: str) -> None:
    told = run(tmp_path, "joined", num_actors)
    assert len(told["calls"]) == 2 and told["calls"][0] > 2, told
    assert (told["nodes"], told["told"], told["has_no_autoscaler"]) == (2, [], True)


@pytest.mark.parametrize("num_actors", ["null", "2"])
def test_nodes_that_an_autoscaler_brings_are_used(tmp_path: Path, num_actors: str) -> None:
    told = run(tmp_path, "asked", num_actors)
    assert len(told["calls"]) == 2 and told["calls"][0] > 2, told
    assert (told["nodes"], told["has_no_autoscaler"]) == (2, False)
    assert "none of 1 node(s) has that" in told["told"][0] and "waiting for nodes that have it" in told["told"][0]
