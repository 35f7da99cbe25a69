"""Rewards of pairs outside a run: those of the run that made the models, and what is refused before Ray starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pdray
from pdray.errors import UserError
from tests.whole_run import WholeRun

PAIRS = pa.table({"prompt": ["q"], "chosen": ["a"], "rejected": ["b"]})
PROXIES = {"x": "models/x", "y": "models/y"}


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (PAIRS.drop_columns("chosen"), r"pairs has no column chosen; it has prompt, rejected: rename yours"),
        (PAIRS.append_column("reward_chosen.x", [[1.0]]), r"pairs has a column reward_chosen\.x already; drop it"),
        (PAIRS.to_pydict(), r"pairs is a dict; give a pyarrow\.Table or a Ray Data set"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(pairs: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        pdray.score_pairs(pairs, PROXIES)


def test_all_that_is_wrong_with_models_and_settings_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a model for at least two") as told:
        pdray.score_pairs(PAIRS, {"x": "models/x"}, engine="none", max_tokens=1)
    assert [word in str(told.value) for word in ("engine is 'none'", "max_tokens is 1")] == [True, True]
    with pytest.raises(UserError, match=r"scratch is .*/none, which is no folder"):
        pdray.score_pairs(PAIRS, PROXIES, scratch=tmp_path / "none")
    with pytest.raises(UserError, match="models/x") as told:
        pdray.score_pairs(PAIRS, PROXIES)
    assert "models/y" in str(told.value)
    with pytest.raises(UserError, match="the output of the stage scores; give that of the stage proxies"):
        pdray.score_pairs(PAIRS, pdray.StageOutput("scores", "/runs/1/scores-1", {}))


def outputs(whole_run: WholeRun) -> dict[str, pdray.StageOutput]:
    assert whole_run.code == 0, whole_run.err
    return pdray.Run(whole_run.config).outputs()


def rewards_of(stages: dict[str, pdray.StageOutput]) -> dict[str, dict[str, float]]:
    """The rewards of each pair of a run, by its id and the names of their columns."""
    from pyarrow.parquet import read_table

    found = {}
    for pairs, texts in zip(stages["corpus"].files("pairs"), stages["scores"].files("texts"), strict=True):
        rewards = read_table(texts).to_pylist()
        for pair in read_table(pairs).to_pylist():
            found[pair["pair_id"]] = {
                f"{name.replace('reward', f'reward_{side}')}": value
                for side in ("chosen", "rejected")
                for name, value in rewards[pair[f"{side}_row"]].items()
                if name.startswith("reward.")
            }
    return found


def test_a_table_gets_the_rewards_of_the_run(whole_run: WholeRun, ray_local: None) -> None:
    """In the order of its rows; one that is no pair gets none, and a pair that stands there twice gets them twice."""
    stages = outputs(whole_run)
    kept = stages["selection"].table("kept").slice(0, 12)
    odd = pa.table({name: ["same"] for name in kept.column_names}, schema=kept.schema)
    pairs = pa.concat_tables([kept.slice(6), odd, kept])
    scored = pdray.score_pairs(pairs, stages["proxies"], engine="transformers", max_tokens=128)
    assert scored.select(pairs.column_names) == pairs
    known = rewards_of(stages)
    names = sorted(next(iter(known.values())))
    assert sorted(scored.column_names[len(pairs.column_names) :]) == names
    for name in names:
        column = scored[name].to_pylist()
        assert column.pop(6) is None
        expected = [known[pair_id][name] for pair_id in pairs["pair_id"].to_pylist() if pair_id != "same"]
        np.testing.assert_allclose(column, expected, atol=1e-5)


@pytest.mark.slow
def test_a_ray_data_set_gets_them_by_pair_id(
    whole_run: WholeRun, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the caller's settings of Ray Data stay as they are."""
    import ray.data

    monkeypatch.setattr(ray.data.DataContext.get_current(), "read_op_min_num_blocks", 3)
    stages = outputs(whole_run)
    pairs = stages["selection"].ray_dataset("kept").limit(12).materialize()  # else another dozen each time
    scored = pdray.score_pairs(pairs, stages["proxies"], engine="transformers", max_tokens=128)
    known = rewards_of(stages)
    rows = scored.take_all()
    assert sorted(row["pair_id"] for row in rows) == sorted(row["pair_id"] for row in pairs.take_all())
    for row in rows:
        assert {name: value for name, value in row.items() if name != "pair_id"} == pytest.approx(
            known[row["pair_id"]], abs=1e-5
        )
    assert ray.data.DataContext.get_current().read_op_min_num_blocks == 3
