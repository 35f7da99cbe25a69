"""The verdict on a comparison with Transformers, and errors on their way back from workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.config import LogprobsConfig, ScoresConfig
from pdray.engines.parity import Figures, compare, measure, rank_correlation, require_parity
from pdray.engines.shards import read_parity
from pdray.errors import UserError, user_errors
from pdray.storage import StoragePath

PROMPTS = ["What is right?", "Who knows?", "Why?", "When?"]


def parity(rewards: Any, reference: Any, labels: tuple[str, ...] = ("tone",)) -> pa.Table:
    sample = pa.table({"shard": pa.array([3, 3, 8, 9], pa.int32()), "row": pa.array([1, 2, 5, 0], pa.int32())})
    columns = [np.array(values, np.float32).reshape(4, len(labels)) for values in (rewards, reference)]
    return compare(sample, *columns, labels=list(labels))


def verdict(table: pa.Table, **scores: Any) -> Figures:
    return require_parity(table, PROMPTS, ScoresConfig.model_validate(scores))


def test_the_largest_error_within_the_tolerance() -> None:
    table = parity([1.0, 2.0, 3.0, 4.0], [1.0, 2.0005, 3.0, 3.9999])
    assert verdict(table).max_error == pytest.approx(5e-4, rel=1e-2)


def test_the_worst_text_is_named_with_both_values_and_the_cure() -> None:
    rewards, reference = [[0, 1.0], [0, 2.0], [0, 3.0], [0, 0.75]], [[0, 1.0], [0, 2.5], [0, 3.0], [0, -1.25]]
    table = parity(rewards, reference, ("kind", "tone"))
    with pytest.raises(UserError) as error:
        verdict(table)
    assert str(error.value) == (
        "vllm in float32 and Transformers disagree: text 0 of corpus shard 9 (prompt 'When?') gets 0.75 for tone from "
        "vllm and -1.25 from Transformers in float32; they are 2 apart where scores.parity_tolerance is 0.001; set "
        "scores.engine to transformers, or raise scores.parity_tolerance if you accept it"
    )
    with pytest.raises(UserError, match=r"tolerance is 0.001; raise scores.parity_tolerance if you accept it$"):
        verdict(table, engine="transformers")


def test_the_cure_names_the_section_that_asked() -> None:
    table = parity([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.5])
    for dtype, setting in {"float32": "parity_tolerance", "bfloat16": "parity_spread"}.items():
        config = LogprobsConfig.model_validate({"policy": "p", "dtype": dtype, "engine": "transformers"})
        with pytest.raises(UserError, match=rf"logprobs\.{setting} is"):
            require_parity(table, PROMPTS, config)


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_that_only_one_of_both_finds_finite_is_the_worst(reward: float, dtype: str) -> None:
    with pytest.raises(UserError, match="text 2 of corpus shard 3"):
        verdict(parity([1.0, reward, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]), parity_tolerance=100, dtype=dtype)
    same = parity([1.0, reward, 3.0, 4.0], [1.0, reward, 3.0, 4.0])
    assert verdict(same, parity_tolerance=1e-9, dtype=dtype).max_error == 0


def test_rounding_of_half_precision_is_judged_by_order_and_spread() -> None:
    table = parity([100.4, 250.9, 301.0, 402.0], [100.0, 250.0, 300.0, 400.0])
    with pytest.raises(UserError, match="parity_tolerance"):
        verdict(table, dtype="float32")
    figures = verdict(table, dtype="bfloat16")
    assert figures.rank == pytest.approx(1)
    assert figures.spread == pytest.approx(2 / np.std([100, 250, 300, 400]), rel=1e-4)
    with pytest.raises(UserError, match=r"standard deviations apart where scores.parity_spread is 0.001; set"):
        verdict(table, dtype="bfloat16", parity_spread=0.001)


def test_another_order_is_refused_in_half_precision() -> None:
    table = parity([1.00, 1.02, 1.01, 1.03], [1.00, 1.01, 1.02, 1.03])
    with pytest.raises(UserError, match=r"the rank correlation is 0.800 where scores.parity_rank is 0.9"):
        verdict(table, dtype="float16", parity_spread=10)
    assert verdict(table, dtype="float16", parity_spread=10, parity_rank=0.7).rank == pytest.approx(0.8)


def test_the_worst_of_several_outputs_decides() -> None:
    table = parity([[1, 4], [2, 3], [3, 2], [4, 1]], [[1, 1], [2, 2], [3, 3], [4, 4]], ("a", "b"))
    assert measure(table).rank == pytest.approx(-1)
    assert measure(parity([5.0] * 4, [5.0] * 4)) == Figures(0.0, None, None)


def test_a_constant_engine_has_no_rank() -> None:
    assert rank_correlation(np.ones(4), np.arange(4.0)) == -1


def test_a_users_error_comes_out_of_its_wrappings() -> None:
    with pytest.raises(UserError, match=r"^set it$"), user_errors():
        try:
            raise UserError("set it")
        except UserError as cause:
            raise RuntimeError("task failed") from cause
    with pytest.raises(KeyError), user_errors():
        raise KeyError("ours")


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: pq.write_table(pa.table({"a": [1]}), path)])
def test_a_damaged_comparison_is_told_and_stops_nothing(tmp_path: Path, make: Callable[[Path], object]) -> None:
    notes: list[str] = []
    assert read_parity(StoragePath(str(tmp_path)), notes.append) is None
    assert notes == []
    make(tmp_path / "parity.parquet")
    assert read_parity(StoragePath(str(tmp_path)), notes.append) is None
    assert len(notes) == 1 and "parity.parquet is damaged" in notes[0]
