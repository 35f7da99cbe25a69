"""pdray from Python: what it refuses, what it plans, and the method on arrays beside the stage's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import pdray
from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.store import MANIFEST
from tests.selection.cases import by_hand, divergence, random_case


def test_the_method_on_arrays_is_that_of_the_stage() -> None:
    case = random_case(rows=500)
    lengths = (case.tokens @ [1, -1]).astype(float)
    with np.errstate(invalid="ignore"):
        margins = case.rewards[:, 0].astype(float) - case.rewards[:, 1] - case.penalty * lengths[:, None]
    found = pdray.preference_divergence(margins, case.own, gamma=0.9)
    np.testing.assert_array_equal(found, divergence(case))
    kept = pdray.select(found, case.ids, 0.3)
    assert {case.ids[row] for row in np.flatnonzero(kept)} == {pair_id for _, pair_id, _ in by_hand(case)}
    weights = {"a": 0.5, "b": 1.0, "c": 2.0}
    weighted = pdray.preference_divergence(margins, case.own, weights=list(weights.values()))
    np.testing.assert_array_equal(weighted, divergence(case, weights=weights))


def test_nan_is_never_selected_and_ties_go_by_id() -> None:
    kept = pdray.select(np.array([np.nan, 0.0, 0.0, 0.0]), ["a", "z", "é", "b"], 1.0)
    assert kept.tolist() == [False, True, True, True]
    assert pdray.select(np.array([0.0, 0.0, 0.0]), ["z", "é", "b"], 0.7).tolist() == [True, False, True]
    assert pdray.select(np.array([-np.inf, 0.0]), ["a", "b"], 1.0).tolist() == [False, True]
    assert pdray.select(np.array([np.nan, 0.0, 0.0, 0.0]), ["a", "b", "c", "d"], 0.5).sum() == 2  # of all four


def test_an_aspect_of_weight_zero_does_not_count() -> None:
    found = pdray.preference_divergence(np.array([[1.0, -1.0], [1.0, np.nan]]), np.array([0, 1]), weights=[0, 1])
    assert found.tolist() == [1.0, 0.0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"margins of shape \(3,\) and own of shape \(3,\); \(n, κ\) and \(n,\)"):
        pdray.preference_divergence(np.zeros(3), np.zeros(3, int))
    with pytest.raises(UserError, match="own holds 0 to 2, but there are 2 aspects, from 0"):
        pdray.preference_divergence(np.zeros((2, 2)), np.array([0, 2]))
    with pytest.raises(UserError, match="own holds -1 to 1, but there are 2 aspects, from 0"):
        pdray.preference_divergence(np.zeros((2, 2)), np.array([-1, 1]))
    with pytest.raises(UserError, match=r"divergence of shape \(2,\) for 1 ids"):
        pdray.select(np.zeros(2), ["a"], 0.5)
    wrong = {(1.0,): "1 numbers for 2 aspects", (1.0, -1.0): "-1, but has to", (1.0, np.nan): "nan, but has to"}
    for weights, words in wrong.items():
        with pytest.raises(UserError, match=f"weights holds {words}"):
            pdray.preference_divergence(np.zeros((2, 2)), np.array([0, 1]), weights=weights)
    for gamma in (0.0, 1.5, np.nan):
        with pytest.raises(UserError, match=f"gamma is {gamma:g}, but has to be a quantile"):
            pdray.preference_divergence(np.zeros((2, 2)), np.array([0, 1]), gamma)


def test_a_run_is_planned_from_a_file_a_mapping_or_a_config(small_run_config: Path) -> None:
    settings = yaml.safe_load(small_run_config.read_text())
    run = pdray.Run(small_run_config)
    assert isinstance(run.config, RunConfig)
    assert run.config == pdray.Run(settings).config == pdray.Run(run.config).config
    assert [(stage.name, stage.status) for stage in run.plan()] == [
        (name, "to run") for name in ("corpus", "proxies", "scores", "selection", "alignment")
    ]
    assert str(run.plan()[0]).startswith("corpus     to run  ")
    assert run.outputs() == {}
    assert not Path(settings["run"]).exists()
    assert pdray.Run(settings, ["selection.budget=0.1"]).config.selection.budget == 0.1
    with pytest.raises(UserError, match="budget"):
        run.select(budget=3)
    with pytest.raises(UserError, match=r"the configuration has no evaluation section"):
        run.run(until="evaluation")


def test_what_a_stage_has_written(tmp_path: Path) -> None:
    folder = tmp_path / "selection-01234567"
    (folder / "kept").mkdir(parents=True)
    for shard in (1, 0):
        table = pa.table({"pair_id": [f"{shard}-a", f"{shard}-b"], "pd": [0.5, -0.5]})
        pq.write_table(table, folder / "kept" / f"shard-0000{shard}.parquet")
    (folder / MANIFEST).write_text(json.dumps({}))
    output = pdray.StageOutput("selection", str(folder), {"metrics": {"budget": 0.3}, "rows_out": 4})
    assert (output.rows, output.metrics) == (4, {"budget": 0.3})
    assert output.table("kept", ["pair_id"])["pair_id"].to_pylist() == ["0-a", "0-b", "1-a", "1-b"]
    with pytest.raises(UserError, match=r"has no table 'pairs'; it has kept$"):
        output.table("pairs")


def test_a_table_as_a_ray_data_set(tmp_path: Path, ray_local: None) -> None:
    folder = tmp_path / "selection-01234567"
    (folder / "kept").mkdir(parents=True)
    pq.write_table(pa.table({"pair_id": ["a", "b"]}), folder / "kept" / "shard-00000.parquet")
    output = pdray.StageOutput("selection", str(folder), {})
    assert [row["pair_id"] for row in output.ray_dataset("kept").take_all()] == ["a", "b"]


def test_a_ray_that_this_process_has_is_not_taken(small_run_config: Path, ray_local: None) -> None:
    with pytest.raises(UserError, match=r"connected to a Ray already; end that with ray\.shutdown\(\) first"):
        pdray.Run(small_run_config).run(until="corpus")
