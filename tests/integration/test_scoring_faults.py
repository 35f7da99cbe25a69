"""Scoring on a real Ray under faults: engines that squash, die, kill, hang and break, and a cluster of one CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ray import cloudpickle

from pdray.engines.actor import FAILED_BEFORE
from pdray.errors import UserError
from pdray.schema import RewardModel
from pdray.shards import ShardedFolder, ShardsFailedError, run_rounds
from pdray.storage import StoragePath
from tests.engines import doubles
from tests.engines.doubles import (
    BrokenEngine,
    HangingEngine,
    HangingOnceEngine,
    KillingEngine,
    MortalEngine,
    RaisingEngine,
    SpoiltEngine,
    SquashedEngine,
)
from tests.scoring.cases import TEXTS, make_texts, plain_rewards, rewards_of, score, upstream_of

pytestmark = pytest.mark.usefixtures("ray_local")
cloudpickle.register_pickle_by_value(doubles)  # the workers do not see the tests


def test_an_engine_that_squashes_rewards_stops_the_stage_before_the_pass(tmp_path: Path, bert: RewardModel) -> None:
    with pytest.raises(UserError, match=r"disagree: text \d+ of corpus shard \d \(prompt '.+'\) gets") as error:
        score(tmp_path, upstream_of(tmp_path, bert), load=SquashedEngine)
    assert "Traceback" not in str(error.value)
    assert not list((tmp_path / "scores-test" / "texts").glob("shard-0000[02]*"))
    assert (tmp_path / "scores-test" / "parity.parquet").exists()


def test_a_dying_actor_costs_no_text(tmp_path: Path, bert: RewardModel) -> None:
    result, shards = score(tmp_path, upstream_of(tmp_path, bert), load=MortalEngine)
    assert (Path(bert.path).parent / "died").exists()
    assert result.metrics["failed"] == 0
    np.testing.assert_allclose(rewards_of(shards, "tone"), plain_rewards(Path(bert.path), TEXTS)[:, 2], atol=1e-4)


POISONED = make_texts(30, poison=5)
POISONED_SHARDS = [POISONED[:8], POISONED[8:]]


@pytest.mark.parametrize(
    ("engine", "reason", "timeout"),
    [
        # A process is started anew for every round and every half.
        pytest.param(KillingEngine, FAILED_BEFORE, 600, marks=pytest.mark.slow),
        pytest.param(SpoiltEngine, FAILED_BEFORE, 600, marks=pytest.mark.slow),
        # Every round and every half waits for the deadline; that a hanging engine is ended at all is tested below.
        pytest.param(HangingEngine, FAILED_BEFORE, 10, marks=pytest.mark.chaos),
    ],
)
def test_the_one_text_that_breaks_an_engine_is_found_and_listed(
    tmp_path: Path, bert: RewardModel, engine: type, reason: str, timeout: float
) -> None:
    upstream = upstream_of(tmp_path, bert, shards=POISONED_SHARDS)
    result, shards = score(tmp_path, upstream, load=engine, max_failed=0.04, step_timeout=timeout, parity_rows=2)
    rewards = rewards_of(shards, "honesty")
    assert np.flatnonzero(np.isnan(rewards)).tolist() == [5]
    good = np.arange(30) != 5
    np.testing.assert_allclose(rewards[good], plain_rewards(Path(bert.path), POISONED)[good, 1], atol=1e-4)
    assert (result.metrics["failed"], result.metrics["failed_texts"]) == (1, [[0, 5, reason]])
    assert result.metrics["non_finite"] == 3
    assert any("1 texts could not be scored and have no reward (shard 0 row 5: " in note for note in result.notes)


@pytest.mark.slow
def test_an_engine_that_hangs_is_ended_and_its_shard_made_again(tmp_path: Path, bert: RewardModel) -> None:
    result, shards = score(tmp_path, upstream_of(tmp_path, bert), load=HangingOnceEngine, step_timeout=10)
    assert (Path(bert.path).parent / "hung").exists()
    assert result.metrics["failed"] == 0
    np.testing.assert_allclose(rewards_of(shards, "tone"), plain_rewards(Path(bert.path), TEXTS)[:, 2], atol=1e-4)


def test_more_broken_texts_than_allowed_are_refused(tmp_path: Path, bert: RewardModel) -> None:
    upstream = upstream_of(tmp_path, bert, shards=POISONED_SHARDS)
    with pytest.raises(UserError, match=r"raise scores\.max_failed if you accept it"):
        score(tmp_path, upstream, load=RaisingEngine, max_failed=0.001, parity_rows=2)


@pytest.mark.slow
def test_an_engine_that_breaks_altogether_fails_the_stage(tmp_path: Path, bert: RewardModel) -> None:
    told = "2 shards failed 3 times: .*: the engine raises for a text that it has scored before: .* gone"
    with pytest.raises(ShardsFailedError, match=told):
        score(tmp_path, upstream_of(tmp_path, bert), load=BrokenEngine)


def test_lost_shards_without_a_culprit_are_an_error_and_not_a_hole(tmp_path: Path) -> None:
    shards = ShardedFolder(StoragePath(str(tmp_path)), "test", 2)
    with pytest.raises(ShardsFailedError, match="its worker was lost"):
        run_rounds(shards, lambda missing: iter(()), lambda text: None)


ONE_CPU = """
import sys
from dataclasses import replace
from pathlib import Path
from pdray.config import ClusterConfig
from pdray.runtime import ray_session
from pdray.schema import RewardModel
from tests.scoring.cases import ASPECTS, make_texts, proxies_of, score, write_corpus
from tests.stages import join

root = Path(sys.argv[1])
model = RewardModel(sys.argv[2], ASPECTS)
upstream = join(write_corpus(root, [make_texts(20), make_texts(30, seed=1)]), proxies_of(root, model))
with ray_session(ClusterConfig(num_cpus=1)):
    result, shards = score(root, upstream)
print(result.metrics["num_actors"], result.metrics["computed"])
"""


@pytest.mark.slow
def test_a_cluster_of_one_cpu_does_not_wait_for_itself(tmp_path: Path, bert: RewardModel) -> None:
    command = [sys.executable, "-c", ONE_CPU, str(tmp_path), bert.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["1", "50"]
