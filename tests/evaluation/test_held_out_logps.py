"""Log-probabilities of held-out pairs: who is policy and who reference, what is kept, what a figure is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pdray.config import AlignmentConfig, EvaluationConfig
from pdray.errors import UserError
from pdray.evaluation import stage
from pdray.evaluation.stage import STAGE
from pdray.responses import CutRule
from pdray.schema import AlignmentOutput
from pdray.stages import StageResult
from pdray.storage import StoragePath
from tests.stages import finished, run_stage

ROWS = [
    {"prompt": f"p{row}", "chosen": "c" * (row % 3 + 1), "rejected": "r" * 2, "aspect": "xy"[row % 2]}
    for row in range(6)
]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A run whose policy likes its length times as much as the reference does; and how many pairs were computed."""
    seen = SimpleNamespace(root=tmp_path, computed=[], odd=0.0)
    for name in ("sft", "alignment-test/policy"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def run_tasks(function: Any, jobs: list[Any], *limits: Any) -> Iterator[tuple[int, np.ndarray]]:
        for number, (pairs, models, rule, _) in enumerate(jobs):
            assert isinstance(rule, CutRule)
            seen.computed.append(len(pairs))
            weights = [2.0 if Path(model).name == "policy" else 1.0 for model in models]
            lengths = np.array([[len(row[side]) for side in ("chosen", "rejected")] for row in pairs.to_pylist()])
            logps = np.array(weights)[None, :, None] * lengths[:, None].astype(np.float32)
            logps[0, 0, 0] += seen.odd
            yield number, logps

    monkeypatch.setattr(stage, "run_tasks", run_tasks)
    return seen


def evaluated(world: SimpleNamespace, name: str = "", **alignment: Any) -> StageResult:
    upstream = finished("alignment", StoragePath(str(world.root)), AlignmentOutput("alignment-test/policy"))
    sections = {
        "alignment": AlignmentConfig(policy=str(world.root / "sft"), **alignment),
        "evaluation": EvaluationConfig(pairs=str(world.root / "held-out.jsonl")),
    }
    return run_stage(STAGE, world.root, name, upstream=upstream, **sections)


def test_a_pair_is_right_where_the_policy_came_to_prefer_the_chosen_response(world: SimpleNamespace) -> None:
    found = evaluated(world)
    assert pq.read_table(world.root / "evaluation-test" / "pairs.parquet")["right"].to_pylist() == [0, 0.5, 1] * 2
    assert (found.metrics["accuracy"]["mean"], found.metrics["computed"]) == (0.5, 6)


def test_pairs_are_computed_once_for_what_decides_them(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PAIRS_PER_TASK", 4)
    before = evaluated(world).metrics
    assert evaluated(world, "again").metrics == before | {"computed": 0}
    assert world.computed == [4, 2]
    evaluated(world, "longer", max_tokens=77)
    (world.root / "sft" / "config.json").write_text("other weights")
    evaluated(world, "other")
    assert world.computed == [4, 2] * 3
    (world.root / "held-out.jsonl").write_text("".join(json.dumps(row | {"prompt": "q"}) + "\n" for row in ROWS))
    evaluated(world, "asked")
    assert world.computed == [4, 2] * 4
    (world.root / "shared" / "held-out").rename(world.root / "gone")
    evaluated(world, "gone")
    assert world.computed == [4, 2] * 5


def test_what_is_not_finite_is_left_out_and_counted(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    world.odd = np.nan
    rows = [*ROWS, {"prompt": "half"}, {"prompt": "p", "chosen": "c", "rejected": "rr", "aspect": None}]
    (world.root / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluated(world)
    assert (found.rows_in, found.rows_out) == (8, 6)
    assert found.dropped == {
        "missing field: chosen": 1,
        "beyond evaluation.max_pairs": 0,
        "log-probabilities not finite": 1,
    }
    assert {name: one["pairs"] for name, one in found.metrics["aspects"].items()} == {"x": 2, "y": 3}
    assert found.metrics["accuracy"]["pairs"] == 6
    monkeypatch.setattr(stage, "PAIRS_PER_TASK", 1)
    with pytest.raises(UserError, match="no held-out pair has finite log-probabilities; look at"):
        evaluated(world, "none")


def test_whatever_decides_a_figure_is_in_the_fingerprint(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("pairs.jsonl", "prompts.jsonl", "sft/w", "base/w", "rm/w")}

    def settings(seed: int = 0, copy: bool = False, **generation: Any) -> Any:
        root = tmp_path / "copy" if copy else tmp_path
        for name, path in paths.items() if copy else ():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(path.read_bytes())
        section = {
            "pairs": str(root / "pairs.jsonl"),
            "generation": {"prompts": str(root / "prompts.jsonl"), "baseline": str(root / "base")} | generation,
            "reward_models": {"rm": {"path": str(root / "rm")}},
        }
        config = SimpleNamespace(
            seed=seed,
            evaluation=EvaluationConfig.model_validate(section),
            alignment=AlignmentConfig(policy=str(root / "sft")),
        )
        return json.dumps(STAGE.settings(config), sort_keys=True)  # type: ignore[arg-type]

    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    before = settings()
    assert settings(copy=True) == before
    found = {before, settings(seed=1), settings(gpus=1), settings(temperature=0.5)}
    for name in ("pairs.jsonl", "prompts.jsonl", "base/w", "rm/w"):
        paths[name].write_text("two")
        found.add(settings())
    assert len(found) == 8
