"""``pdray plan`` from the command line and from Python, on a small run that is never started."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import pdray
from pdray.cli import main
from pdray.hashing import digest
from pdray.identity import model_identity
from pdray.plan.cost import Cost
from pdray.plan.estimate import StagePlan
from pdray.plan.hardware import GIB, parse_hardware, this_machine
from pdray.plan.rates import Rate, rate_key, read_rates, write_rates
from pdray.plan.told import notes_on
from pdray.rounds import plan_rounds, round_config
from tests.tiny import tiny_bert, tiny_llama_lm
from tests.whole_run import write_yaml


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny models on 200 pairs, all sections in it."""
    root = tmp_path_factory.mktemp("plan")
    rows = [
        {"prompt": f"what is {row}?", "chosen": "a good answer", "rejected": f"bad {row}", "aspect": "ab"[row % 2]}
        for row in range(200)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_bert(root / "base")
    tiny_llama_lm(root / "policy", chat=False)  # a chat template is tried out in a process of its own
    settings: dict[str, Any] = {
        "run": str(root / "run"),
        "corpus": {"path": str(root / "pairs.jsonl")},
        "proxies": {"base_model": str(root / "base"), "kind": "shared"},
        "scores": {"max_tokens": 64, "engine": "transformers"},
        "logprobs": {"policy": str(root / "policy"), "max_tokens": 64, "engine": "transformers"},
        "alignment": {"policy": str(root / "policy"), "max_tokens": 64, "pairs_per_step": 4, "num_workers": 1},
        "evaluation": {"pairs": str(root / "pairs.jsonl")},
    }
    return write_yaml(root / "run.yaml", settings)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_table_fits_and_tells_everything(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(config), "--on", "8xH100", "--price", "2"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].endswith("on 8 × H100, 1 node(s)")
    assert "  rows                             200" in lines
    assert [line.split()[0] for line in lines if " to run " in line] == [
        "corpus", "proxies", "scores", "logprobs", "selection", "alignment", "evaluation",
    ]  # fmt: skip
    assert "a GPU-hour costs 2 dollars, as you gave it" in out
    assert "scores leaves 8 GPUs idle; set scores.gpus_per_actor=1 to use them" in out
    assert not (config.parent / "run").exists()


def test_rewards_of_answers_are_planned(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bert(config.parent / "judge", num_labels=1)
    changes = [
        "evaluation.generation={max_tokens: 8, prompt_tokens: 32}",
        f"evaluation.reward_models={{rm: {{path: {config.parent}/judge, max_tokens: 64}}}}",
    ]
    words = [part for change in changes for part in ("--set", change)]
    assert main(["plan", str(config), "--on", "8xH100", "--json", *words]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["evaluation"]["work"].endswith("400 answers of up to 8 tokens; 400 rewards by rm")


def test_cross_fitted_trainings_are_planned(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["crossfit.max_tokens=64", "crossfit.engine=transformers", "selection.strategy=selective"]
    changes = [part for setting in settings for part in ("--set", setting)]
    assert main(["plan", str(config), "--on", "8xH100", "--json", *changes]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert list(stages)[3:6] == ["logprobs", "crossfit", "selection"]
    assert stages["crossfit"]["work"].startswith("6 × 25 steps of 4 pairs, ")  # 100 of 200 pairs in each of six
    assert stages["crossfit"]["seconds"] > stages["alignment"]["seconds"]


def test_stages_of_rounds_are_counted_for_all_of_them(config: Path) -> None:
    strategy = "selection.strategy=pd_potential"
    one, three = (pdray.Run(config, [strategy, f"rounds={rounds}"]).estimate("8xH100") for rounds in (1, 3))
    times = {stage.name: stage.times for stage in three.stages}
    once = dict.fromkeys(("corpus", "proxies", "scores"), 1)
    assert times == once | dict.fromkeys(("logprobs", "selection", "alignment", "evaluation"), 3)
    for before, after in zip(one.stages, three.stages, strict=True):
        assert before.cost is not None and after.cost is not None
        assert after.cost.seconds == pytest.approx(after.times * (before.cost.seconds or 0))
        assert (after.cost.host_bytes, after.cost.disk_bytes) == (
            before.cost.host_bytes,
            after.times * before.cost.disk_bytes,
        )
    lines = str(three).splitlines()
    assert [line.split()[0] for line in lines if " run × 3 " in line] == [
        "logprobs",
        "selection",
        "alignment",
        "evaluation",
    ]
    assert any("what each round has is told for all 3 that are to come" in line for line in lines)


def test_what_is_done_of_the_rounds_is_not_planned_again(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pdray.Run(config, ["selection.strategy=pd_potential", "rounds=3"])
    _, steps = plan_rounds(run.config)
    done, damaged = ("proxies", "scores", "logprobs"), ("selection",)
    second = [
        replace(
            step,
            manifest={"seconds": 7} if step.stage.name in done else None,
            damage="a file is gone" if step.stage.name in damaged else None,
        )
        for step in steps
    ]
    monkeypatch.setattr("pdray.plan.estimate.plan_rounds", lambda config: (round_config(config, 2, None), second))
    plan = run.estimate("8xH100")
    assert {stage.name: (stage.status, stage.spent, stage.times) for stage in plan.stages} == {
        "corpus": ("to run", None, 1),
        "proxies": ("done", 7, 1),
        "scores": ("done", 7, 1),
        "logprobs": ("to run", 7, 1),
        "selection": ("damaged", None, 2),
        "alignment": ("to run", None, 2),
        "evaluation": ("to run", None, 2),
    }
    assert [stage.cost is None for stage in plan.stages] == [stage.status == "done" for stage in plan.stages]
    assert any("what each round has is told for all 2 that are to come" in note for note in plan.notes)


def test_a_cluster_that_is_asked_is_not_this_machine(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.plan.estimate.cluster_hardware", lambda address, labels: parse_hardware("8xH100"))
    monkeypatch.setattr("pdray.plan.told._free_bytes", lambda run: 0)
    run = pdray.Run(config, ["cluster.address=ray://head:10001"])
    plan = run.estimate(address="http://head:8265")
    assert plan.hardware.gpus == 8
    told = ("cluster.address names a cluster that a plan does not join", "but its disk has 0 free")
    assert [any(words in note for note in plan.notes) for words in told] == [False, False]
    assert [any(words in note for note in run.estimate().notes) for words in told] == [True, True]


def test_the_same_as_json_and_from_python(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    override = "alignment.gpus_per_worker=1"
    assert main(["plan", str(config), "--on", "2xL40S", "--json", "--set", override]) == 0
    found = json.loads(capsys.readouterr().out)
    plan = pdray.Run(config, [override]).estimate(on="2xL40S")
    assert found == json.loads(json.dumps(plan.as_json()))
    assert found["corpus"]["exact"] == ["rows", "pairs", "prompts", "texts", "aspects"]
    assert (found["corpus"]["prompts"], found["corpus"]["texts"]) == (200, 400)
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert stages["alignment"]["gpu_hours"] > 0 == stages["scores"]["gpu_hours"]
    assert found["gpu_hours"] == pytest.approx(stages["alignment"]["gpu_hours"], abs=0.001)
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages.values()), abs=0.1)
    assert found["price"] == 1.2
    assert found["tokens"]["proxies.base_model"]["longest_as_read"] <= 64


def test_a_price_without_gpus_is_not_left_without_a_word(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(this_machine(), gpu=None, gpus=0)
    monkeypatch.setattr("pdray.plan.estimate.this_machine", lambda num_cpus: bare)
    run, told = pdray.Run(config), "--price is of a GPU-hour, but this machine has no GPU of a kind that is known here"
    plan = run.estimate(price=2.5)
    assert plan.price is None and any(note.startswith(told) and "as in 8xH100" in note for note in plan.notes)
    assert not [note for note in [*run.estimate().notes, *run.estimate("8xH100", 2.5).notes] if "--price" in note]
    monkeypatch.setattr("pdray.plan.estimate.cluster_hardware", lambda address, labels: replace(bare, here=False))
    assert any("but the cluster has no GPU" in note for note in run.estimate(price=2.5, address="http://head").notes)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--on", "8xV100"], "--on names the GPU 'V100', of which nothing is known here"),
        (["--on", "lots"], "--on is 'lots', but has to be a number of GPUs and their kind, as in 8xH100"),
        (["--price", "-1"], "--price is -1, but has to be dollars of a GPU-hour, 0 or more"),
        (["--calibrate", "--on", "8xH100"], "--calibrate measures this machine, and --on names another"),
        (["--calibrate", "--address", "http://x"], "--calibrate measures this machine, and --address names another"),
        (
            ["--on", "8xH100", "--address", "http://x"],
            "--on and --address both name hardware; leave one of the two out",
        ),
        (["--address", ""], "--address is '' but must be the head's jobs API"),
        (["--address", "x:6379"], "--address is 'x:6379' but must be the head's jobs API"),
        (["--price", "nan"], "--price is nan, but has to be"),
        (["--set", "corpus.path=gone.jsonl"], "corpus.path matches no file"),
        (["--set", "selection.budget=3"], "selection.budget"),
        (["--set", "scores.max_tokens=4096"], "scores.max_tokens is 4096, but"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    config: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(config), *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pdray: ") and sentence in lines[0]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "pdray plan run.yaml --on 8xH100" in capsys.readouterr().out


def test_more_workers_than_gpus_is_told_and_not_counted(config: Path) -> None:
    run = pdray.Run(config, ["alignment.gpus_per_worker=1", "alignment.num_workers=4"])
    plan = run.estimate(on="2xH100")
    (problem,) = plan.problems
    assert problem.startswith("the config asks for 4 training worker(s)")
    assert "does not fit\n  the config asks for 4" in str(plan)
    assert plan.gpu_hours == 0


def test_a_disk_that_is_too_small_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [note for note in pdray.Run(config).estimate().notes if "its disk has" in note]
    run = pdray.Run(config)
    needed = sum(stage.cost.disk_bytes for stage in run.estimate().stages if stage.cost)
    for free, told in ((needed - 1, True), (needed + 1, False)):
        monkeypatch.setattr("pdray.plan.told._free_bytes", lambda run, free=free: free)
        notes = run.estimate(price=0).notes
        assert any("but its disk has 0 free; set run to another one" in note for note in notes) is told
    monkeypatch.setattr("pdray.plan.told._free_bytes", lambda run: 0)
    assert not [note for note in run.estimate("8xH100").notes if "its disk has" in note]


def test_what_ray_writes_to_its_disk_is_told(config: Path) -> None:
    plan = pdray.Run(config).estimate("8xH100")
    assert not [note for note in plan.notes if "object store" in note]
    stored = Cost(1, 0, store_bytes=2 * 500 * GIB)
    stages = [StagePlan("corpus", "to run", None, stored), StagePlan("selection", "done", 1, None)]
    told = notes_on(pdray.Run(config).config, False, stages, parse_hardware("16xH100"))
    (note,) = [one for one in told if "object store" in one]
    assert note.startswith("corpus puts about 500 GiB into the object store of each node, which holds 186 ")
    assert "the other 314 go to the disk of Ray's session" in note


def test_measured_rates_are_used_and_named(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    key = rate_key("alignment", settings["alignment"]["policy"], "float32", False)
    before = pdray.Run(config).estimate()
    write_rates(this_machine(), {key: Rate(1e-6, 7.0, "runs/before, 2026-01-01")})
    after = pdray.Run(config).estimate()
    changed = {stage.name for stage, old in zip(after.stages, before.stages, strict=True) if stage != old}
    assert changed == {"alignment"}
    assert after.seconds > 2 * before.seconds
    assert "measured\n  runs/before, 2026-01-01" in str(after)
    assert pdray.Run(config).estimate(on="1xH100").stages[-2].cost.measured is None  # type: ignore[union-attr]


def test_a_damaged_cache_is_no_cache(cache: Path) -> None:
    here = this_machine()
    assert read_rates(here) == {}
    good = {"a": Rate(1.0, 2.0, "x")}
    path = write_rates(here, good)
    assert read_rates(here) == good
    for text in (
        "",
        "[]",
        "{}",
        json.dumps({here.name: []}),
        json.dumps({here.name: {"a": {"tflops": 0}}}),
        "[" * 9999,
    ):
        path.write_text(text)
        assert read_rates(here) == {}
    path.unlink()
    os.mkfifo(path)
    assert read_rates(here) == {}
    write_rates(here, good)
    assert read_rates(here) == good
    path.write_text(json.dumps({here.name: {"a": {"tflops": -1, "start": 1, "measured": ""}, "b": 3}}))
    assert read_rates(here) == {}
    write_rates(here, good)
    assert read_rates(here) == good


def test_a_rate_is_kept_by_the_content_of_its_model(config: Path) -> None:
    policy = str(config.parent / "policy")
    keys = {
        rate_key("alignment", policy, "float32", False),
        rate_key("alignment", policy, "bfloat16", False),
        rate_key("alignment", policy, "float32", True),
        rate_key("scoring", policy, "float32", False),
        rate_key("alignment", str(config.parent / "base"), "float32", False),
    }
    assert len(keys) == 5
    parts = [f"{name} {identity}" for name, identity in model_identity(policy)]
    assert f"alignment {digest(*parts)[:16]} float32 cpu" in keys
