"""The fakes of the simulated cluster fail as drawn and change no reward; the paper's counts are those of the code."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import simulation
from benchmarks.billion import corpus, limits
from benchmarks.fakes import FakeEngine, Fates, fake_rewards, happened, write_model
from benchmarks.paper import Measured, Run, paper
from pdray.engines.engine import EngineOptions
from pdray.engines.failures import score_around

OPTIONS = EngineOptions(engine="transformers", dtype="float32", max_tokens=512)
MEASURED = Measured(pair=2e-6, text_byte=3e-9, token=2e-5, driver=0.02, marker=3000, part=500)


def test_fates_come_as_often_as_stated_and_the_same_for_a_seed() -> None:
    fates = Fates(seed=1, seconds=0.5, dies=0.1, raises=0.2, slow=0.05)
    drawn = [fates.draw(f"{number:x}", 0, 4) for number in range(4000)]
    assert drawn == [fates.draw(f"{number:x}", 0, 4) for number in range(4000)]
    shares = {fate: count / len(drawn) for fate, count in Counter(fate for fate, _ in drawn).items()}
    assert shares == pytest.approx({"dies": 0.1, "raises": 0.2, "slow": 0.05, "well": 0.65}, abs=0.02)
    well, slow = (np.mean([seconds for fate, seconds in drawn if fate == name]) for name in ("well", "slow"))
    assert (well, slow) == pytest.approx((2.0, 20.0), rel=0.05)
    assert [fate for fate, _ in drawn] != [fates.draw(f"{number:x}", 1, 4)[0] for number in range(4000)]


def test_calls_that_raise_change_no_reward(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(64)]
    write_model(tmp_path / "model", Fates(seed=3, seconds=0.0, raises=0.4), num_labels=2)
    engine = FakeEngine(str(tmp_path / "model"), OPTIONS)

    def score(part: list[int]) -> np.ndarray:
        return engine.score([list(texts[index].encode()) for index in part])

    rewards: dict[int, np.ndarray] = {}
    failed: dict[int, str] = {}
    for start in range(0, 64, 8):
        found, broken = score_around(score, list(range(start, start + 8)), most=8)
        rewards, failed = rewards | found, failed | broken
    met = happened(tmp_path / "model")
    assert met["raises"] > 3
    expected = fake_rewards(texts, 2)
    assert np.unique(expected).size == expected.size and (np.abs(expected) <= 1).all()
    assert len(rewards) + len(failed) == 64 and len(rewards) > 32
    for index, row in rewards.items():
        assert (row == expected[index]).all()


@pytest.fixture
def on_paper(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(Measured, "read", staticmethod(lambda: MEASURED))
    return paper(10**9, 64, 4, 16_384)


def test_a_billion_pairs_have_a_shard_for_each_bucket_of_prompts(on_paper: Run) -> None:
    assert on_paper.shards == 2**16  # 30,518 texts each: a bucket is split above twice as many as were asked for
    assert on_paper.nodes == 8


def test_the_shuffle_makes_an_object_for_each_map_task_and_partition(on_paper: Run) -> None:
    row = corpus(on_paper)
    size = 10**9 * 700 * 4.2
    square = size / 2**20  # of the map tasks and of the partitions: a piece is 1 MiB
    assert on_paper.map_tasks * on_paper.partitions == pytest.approx(square, rel=0.002)
    assert 0 <= row["objects"] - square < 0.05 * square
    assert row["driver"] == pytest.approx(square * 500 + 2**16 * 3000, rel=0.002), "none is sent through its heap"


def test_what_is_full_at_so_many_pairs_is_full_there(on_paper: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measured, "read", staticmethod(lambda: dataclasses.replace(MEASURED, part=1e4)))
    first = limits(paper(10**9, 64, 4, 16_384))[0]
    assert first["full_at"] < 1e9, "the shuffle through one driver is what breaks first"
    there = limits(paper(int(first["full_at"]), 64, 4, 16_384))[0]
    assert there["bytes"] == pytest.approx(there["room"], rel=0.1)


@pytest.mark.slow
def test_tens_of_shards_on_fake_gpus_that_die_raise_and_are_slow(tmp_path: Path) -> None:
    """In processes of their own: a Ray of this process would be told of GPUs for all tests after it."""
    from benchmarks.harness import in_fresh_process

    words = ["--shards", "24", "--gpus", "4"]
    rows = []
    for name, more in (("well", []), ("badly", ["--failures"])):
        (tmp_path / name).mkdir()
        one = ["--one", str(tmp_path / name), *words, *more]
        rows.append(in_fresh_process("benchmarks.simulation", one, tmp_path / f"{name}-run"))
    assert rows[0]["calls"] == {"well": 24}
    assert sum(rows[1]["calls"].values()) > 24
    assert rows[0]["rewards"] == rows[1]["rewards"]
    assert simulation.FAILURES.keys() <= {"dies", "raises", "slow"}
