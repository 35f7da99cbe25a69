"""Repeated selection as a composition of whole runs, told on small stages that need no Ray."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from pdray import pipeline, rounds
from pdray.config import ConfigError, RunConfig, build_config
from pdray.errors import UserError
from pdray.report import words
from pdray.report.run import read_run
from pdray.schema import AlignmentOutput, CorpusOutput, LogprobsOutput, Output, ProxiesOutput, ScoresOutput
from pdray.stages import Stage, StageContext, StageResult
from pdray.summary import summarise, table

done: list[str] = []
policies: list[str] = []
fails: set[str] = set()


def weight(policy: str) -> float:
    """Of the only number of a policy of these tests."""
    return float(load_file(Path(policy) / "model.safetensors")["w"][0])


def write_policy(folder: Path, value: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "vocab.txt").write_text("a\n")
    (folder / "model.safetensors").write_bytes(save({"w": np.array([value], np.float32)}))


def stage(name: str, output: Output, *upstream: str) -> Stage:
    def run(ctx: StageContext) -> StageResult:
        done.append(name)
        return StageResult(output, 1, 1)

    return Stage(name, 1, upstream, lambda config: {"seed": config.seed}, run, lambda value: type(output)(**value))


def read_with(ctx: StageContext) -> StageResult:
    """Stands in for the log-probabilities: remembers by which policy."""
    assert ctx.config.logprobs is not None
    done.append("logprobs")
    policies.append(ctx.config.logprobs.policy)
    return StageResult(LogprobsOutput(0, ["policy"], 1), 1, 1)


def train(ctx: StageContext) -> StageResult:
    """Stands in for the training: a policy that is one more than what the pairs were read with."""
    assert ctx.config.logprobs is not None
    if fails & {Path(ctx.config.run).name}:
        raise RuntimeError("the machine is gone")
    done.append("alignment")
    write_policy(ctx.folder.local / "policy", weight(ctx.config.logprobs.policy) + 1)
    return StageResult(AlignmentOutput(f"{ctx.folder.name}/policy"), 1, 1)


STAGES = [
    stage("corpus", CorpusOutput(0, 1, 1, ["a"], {"a": 1}, False)),
    stage("proxies", ProxiesOutput([], {}), "corpus"),
    stage("scores", ScoresOutput(0, ["a"], 1), "corpus", "proxies"),
    Stage(
        "logprobs",
        1,
        ("corpus",),
        lambda config: {"policy": weight(config.logprobs.policy)},  # type: ignore[union-attr]
        read_with,
        lambda value: LogprobsOutput(**value),
    ),
    Stage("alignment", 1, ("logprobs",), lambda config: {}, train, lambda value: AlignmentOutput(**value)),
]


@pytest.fixture(autouse=True)
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in (done, policies, fails):
        kept.clear()
    monkeypatch.setattr(pipeline, "loaded_models", lambda config, stages: [])
    monkeypatch.setattr(pipeline, "all_stages", lambda: STAGES)
    monkeypatch.setattr("pdray.summary.all_stages", lambda: STAGES)
    monkeypatch.setattr("pdray.runtime.ray_session", lambda cluster: contextlib.nullcontext())
    monkeypatch.setattr("pdray.runtime.head_watched", lambda note: contextlib.nullcontext())
    monkeypatch.setattr("pdray.probe.check_shared", lambda run, note: None)


def config(root: Path, **settings: Any) -> RunConfig:
    write_policy(root / "sft", 0.0)
    sections = {
        "run": str(root / "run"),
        "rounds": 3,
        "corpus": {"path": "x"},
        "proxies": {"base_model": "m"},
        "logprobs": {"policy": str(root / "sft")},
        "selection": {"strategy": "pd_potential"},
        "alignment": {"policy": str(root / "sft")},
    }
    return RunConfig.model_validate(sections | settings)


def test_each_round_reads_with_the_policy_of_the_one_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert all(step.manifest for step in rounds.run(config(tmp_path)))
    assert done == ["corpus", "proxies", "scores", *["logprobs", "alignment"] * 3]
    assert [weight(policy) for policy in policies] == [0, 1, 2]
    assert "round      3 of 3: " in capfd.readouterr().out
    folders = sorted((tmp_path / "run" / "rounds").iterdir())
    assert [folder.name for folder in folders] == ["01", "02", "03"]
    for number, folder in enumerate(folders, 1):
        found = summarise(str(folder))["stages"]
        assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(found, "complete")
        assert weight(str(next(folder.glob("alignment-*/policy")))) == number
        assert (folder / "shared").resolve() == tmp_path / "run" / "shared"
        assert json.loads((folder / "run.json").read_bytes())["config"]["rounds"] == 1
    whole = summarise(str(tmp_path / "run"))
    assert whole["rounds"] == ["rounds/01", "rounds/02", "rounds/03"]
    assert {name: one["status"] for name, one in whole["stages"].items() if name in done} == {
        **dict.fromkeys(rounds.ONCE, "complete"),
        **dict.fromkeys(["logprobs", "alignment"], "in rounds"),
    }
    last = f"pdray show {tmp_path}/run/rounds/03 tells the last"
    assert last in table(whole) and "rounds" not in summarise(str(folders[0]))
    assert all(step.manifest for step in rounds.run(config(tmp_path)))
    assert len(done) == 9, "all of it was there"
    assert Path(rounds.plan_rounds(config(tmp_path))[0].run).name == "03"


def test_the_page_of_several_rounds_says_where_their_pages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.report.run.all_stages", lambda: STAGES)
    rounds.run(config(tmp_path, rounds=2))
    run = str(tmp_path / "run")
    assert words.state(read_run(run)) == (
        "What follows the scores is done in rounds, each with a page of its own: rounds/01, rounds/02."
    )
    shutil.rmtree(next((tmp_path / "run").glob("scores-*")))
    assert words.state(read_run(run)).startswith("This run is not finished: scores is incomplete. What is here")


def test_a_run_that_was_killed_goes_on_in_its_round(tmp_path: Path) -> None:
    fails.add("02")
    with pytest.raises(RuntimeError, match="the machine is gone"):
        rounds.run(config(tmp_path))
    assert done == ["corpus", "proxies", "scores", "logprobs", "alignment", "logprobs"]
    one, steps = rounds.plan_rounds(config(tmp_path))
    assert Path(one.run).name == "02"
    assert [step.stage.name for step in steps if step.manifest is None] == ["alignment"]
    fails.clear()
    rounds.run(config(tmp_path))
    assert done[6:] == ["alignment", "logprobs", "alignment"]
    # Moved as a whole it is the same run, and a further round goes on from it.
    shutil.move(tmp_path / "run", tmp_path / "moved")
    rounds.run(config(tmp_path, run=str(tmp_path / "moved"), rounds=4))
    assert done[9:] == ["logprobs", "alignment"] and weight(policies[-1]) == 3


def test_the_last_stage_is_that_of_the_last_round(tmp_path: Path) -> None:
    rounds.run(config(tmp_path), until="corpus")
    assert done == ["corpus"]
    rounds.run(config(tmp_path), until="scores")
    assert done == ["corpus", "proxies", "scores"]
    rounds.run(config(tmp_path, rounds=2), until="logprobs")
    assert done[3:] == ["logprobs", "alignment", "logprobs"]
    once = rounds.run(config(tmp_path, rounds=1, run=str(tmp_path / "plain")))
    assert all(step.manifest for step in once) and not (tmp_path / "plain" / "rounds").exists()


def test_a_run_and_what_its_stages_counted_are_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    @contextlib.contextmanager
    def traced(note: Any, name: str, **attributes: Any) -> Iterator[None]:
        told.append((name, attributes))
        yield

    monkeypatch.setattr(rounds, "traced", traced)
    monkeypatch.setattr("pdray.tracing.tell", lambda **attributes: told.append(attributes))
    rounds.run(config(tmp_path, rounds=1), until="proxies")
    assert told == [
        ("run", {"run": str(tmp_path / "run"), "rounds": 1}),
        *[{"rows_in": 1, "rows_out": 1, "quarantined": 0}] * 2,
    ]


def test_what_cannot_be_repeated_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pd does not read the policy and selects the same pairs .* to pd_potential"):
        rounds.run(config(tmp_path, selection={"strategy": "pd"}))
    assert done == []
    plain = {"corpus": {"path": "x"}, "proxies": {"base_model": "m"}, "rounds": 2}
    with pytest.raises(ConfigError, match=r"rounds is 2, but there is no logprobs and no alignment section"):
        build_config(plain)
    with pytest.raises(ValueError, match="the losses of crossfit are the same in every round"):
        config(tmp_path, crossfit={})


@pytest.mark.parametrize("name", ["rounds", "shared", "rounds/01"])
def test_a_file_in_the_place_of_a_folder_of_rounds_is_named(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    (run / name).touch()
    with pytest.raises(UserError, match=rf"{run / name}"):
        rounds.link_common(run, run / "rounds" / "01", [])
