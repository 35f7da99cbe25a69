"""What the evaluation section refuses before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pdray.config import ConfigError, EvaluationConfig, build_config
from pdray.evaluation.stage import check
from pdray.stages import Upstream

GENERATION = {"max_tokens": 8}
RM, GPT = {"path": "models/rm"}, {"url": "http://localhost:8000/v1", "model": "m"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"reward_models": {"rm": RM}}, "rm is to judge answers, but none are generated; add generation"),
        ({"generation": GENERATION, "reward_models": {"x": RM}, "endpoints": {"x": GPT}}, "two judges are called x"),
        ({"generation": GENERATION, "endpoints": {"mean": GPT}}, "a judge is called mean"),
        (
            {"generation": GENERATION, "endpoints": {"x": GPT, "y": GPT | {"url": "http://other/v1", "tries": 2}}},
            "the endpoints x and y have the same model m, .* verdicts of one would count for both; take one out",
        ),
        ({"generation": {"gpus": 1.5}}, "1.5 is above 1 and no whole number; set it to 1 or 2"),
        ({"generation": {"engine_args": {"trust_remote_code": True}}}, r"decided elsewhere \(always false\); leave"),
        (
            {"generation": GENERATION, "endpoints": {"gpt": GPT | {"url": "localhost:8000"}}},
            "has to begin with http://",
        ),
        ({"generation": GENERATION, "endpoints": {"gpt": GPT | {"tries": 0}}}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluationConfig.model_validate({"pairs": "pairs.jsonl"} | section)


@pytest.mark.parametrize("other", [{"model": "n"}, {"extra_body": {"top_k": 1}}, {"verdict_tokens": 17}])
def test_endpoints_that_differ_in_what_decides_a_verdict_are_two_judges(other: dict[str, Any]) -> None:
    section = {"pairs": "pairs.jsonl", "generation": GENERATION, "endpoints": {"x": GPT, "y": GPT | other}}
    assert EvaluationConfig.model_validate(section).judges == ["x", "y"]


def config_of(root: Path, **evaluation: Any) -> dict[str, Any]:
    (root / "pairs.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "c", "rejected": "r"}) + "\n")
    for name in ("policy", "rm"):
        (root / name).mkdir()
        config = {"model_type": "llama", "max_position_embeddings": 256, "num_labels": 1}
        config["architectures"] = ["LlamaForCausalLM" if name == "policy" else "LlamaForSequenceClassification"]
        (root / name / "config.json").write_text(json.dumps(config))
    return {
        "run": str(root / "run"),
        "corpus": {"path": str(root / "pairs.jsonl")},
        "proxies": {"base_model": str(root / "policy")},
        "alignment": {"policy": str(root / "policy")},
        "evaluation": {"pairs": str(root / "pairs.jsonl"), "generation": GENERATION} | evaluation,
    }


@pytest.mark.parametrize("name", ["api_key", "Authorization", "x-Token"])
def test_a_key_that_would_be_handed_on_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    judge = GPT | {"extra_body": {"headers": {name: "sk-1234"}}}
    with pytest.raises(ConfigError, match=rf"extra_body\.headers\.{name} holds a key or password") as refusal:
        build_config(config_of(tmp_path, endpoints={"gpt": judge}))
    assert "sk-1234" not in str(refusal.value)
    (tmp_path / "other").mkdir()
    proxies = {"models": dict.fromkeys(["token", "honesty"], str(tmp_path / "rm"))}  # an aspect may be called so
    build_config(
        config_of(tmp_path / "other", endpoints={"gpt": GPT | {"extra_body": {"stop": "key"}}}) | {"proxies": proxies}
    )


def test_every_path_that_leads_nowhere_is_named_at_once(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    generation = GENERATION | {"prompts": nowhere, "baseline": nowhere}
    with pytest.raises(ConfigError) as refusal:
        build_config(config_of(tmp_path, generation=generation, reward_models={"rm": {"path": nowhere}}))
    told = str(refusal.value)
    assert "evaluation.generation.prompts is" in told
    assert "evaluation.generation.baseline is" in told and "neither config.json nor run.json" in told
    assert "evaluation.reward_models.rm is" in told


def test_a_dry_run_looks_at_models_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    old, asked = tmp_path / "old", tmp_path / "asked.jsonl"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 64}))
    asked.write_text('{"prompt": ""}\n')
    settings = config_of(
        tmp_path,
        generation={"max_tokens": 200, "prompt_tokens": 100, "baseline": str(old), "prompts": str(asked)},
        reward_models={"rm": {"path": str(tmp_path / "rm")}},
        endpoints={"gpt": GPT | {"key_variable": "JUDGE_KEY"}},
    )
    config = build_config(settings)
    assert config.evaluation is not None
    with pytest.raises(ValueError) as refusal:
        check(config, Upstream())
    told = str(refusal.value)
    assert "prompt_tokens and max_tokens together is 300, but" in told and "at most 256 tokens" in told
    assert "evaluation.reward_models.rm.max_tokens is 2048, but" in told
    assert "evaluation.reward_models.rm.path is" in told  # a folder without weights
    assert "key_variable is JUDGE_KEY, which is not set here" in told
    assert "asked.jsonl holds no prompt with a text" in told
    assert f"but {old} reads at most 64 tokens" in told
    assert f"evaluation.generation.baseline is {old}" in told  # as without weights


def test_the_last_label_of_a_judge_must_be_there_and_proxies_bring_their_own_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = {"rm": {"path": str(tmp_path / "rm"), "max_tokens": 64}}
    config = build_config(config_of(tmp_path, generation=GENERATION | {"prompt_tokens": 64}, reward_models=judge))
    labels: list[int] = []
    monkeypatch.setattr("pdray.evaluation.stage.check_model_folder", lambda *words, label: labels.append(label))
    check(config, Upstream())
    monkeypatch.setattr("pdray.evaluation.stage.num_labels", lambda config: 4)
    check(config, Upstream())
    assert labels == [0, 3]
    monkeypatch.setattr("pdray.evaluation.stage.is_apart", lambda folder: True)
    check(config, Upstream())
    assert labels == [0, 3]
