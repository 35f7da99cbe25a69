"""What the logprobs section refuses before anything runs, and what depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pdray.config import LogprobsConfig, RunConfig, build_config
from pdray.errors import UserError
from pdray.logprobs.stage import STAGE
from pdray.pipeline import plan, up_to
from pdray.stages import Upstream
from tests.tiny import tiny_bert, tiny_llama_lm, tiny_opt_lm


def check(**logprobs: Any) -> None:
    config = SimpleNamespace(logprobs=LogprobsConfig.model_validate(logprobs))
    assert STAGE.check is not None
    STAGE.check(cast(RunConfig, config), Upstream())


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_llama_lm(tmp_path_factory.mktemp("models") / "policy", max_positions=64, chat=False))


def test_two_models_of_one_vocabulary_pass(policy: str, tmp_path: Path) -> None:
    check(policy=policy, reference=str(tiny_llama_lm(tmp_path, seed=1, max_positions=64, chat=False)), max_tokens=63)


def test_a_position_is_left_for_the_token_that_vllm_generates(policy: str) -> None:
    check(policy=policy, max_tokens=64, engine="transformers")
    with pytest.raises(UserError, match=r"at most 64 tokens, of which the engine needs 1 for itself; set .* to 63"):
        check(policy=policy, max_tokens=64)


def test_a_classifier_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logprobs.policy is .*, but a policy is a …ForCausalLM"):
        check(policy=str(tiny_bert(tmp_path)), max_tokens=32)


def test_a_copy_of_the_policy_is_no_reference(policy: str, tmp_path: Path) -> None:
    copy = tiny_llama_lm(tmp_path, max_positions=64, chat=False)
    with pytest.raises(UserError, match=r"the very model that logprobs.policy names.* leave the reference out"):
        check(policy=policy, reference=str(copy), max_tokens=32)


def test_a_reference_that_numbers_its_tokens_differently_is_refused(policy: str, tmp_path: Path) -> None:
    folder = tiny_opt_lm(tmp_path)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["the"], vocabulary["a"] = vocabulary["a"], vocabulary["the"]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(UserError, match=r"whose vocabulary is not that of logprobs.policy .*; name two models of one"):
        check(policy=policy, reference=str(folder), max_tokens=32)


def test_a_prompt_leaves_room_for_its_response() -> None:
    with pytest.raises(ValueError, match="prompt_tokens 32 fills max_tokens 32 and leaves no room"):
        LogprobsConfig(policy="p", max_tokens=32, prompt_tokens=32)


@pytest.fixture
def settings(policy: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b", "aspect": "x"}\n')
    return {
        "run": str(tmp_path / "run"),
        "corpus": {"path": str(tmp_path / "pairs.jsonl")},
        "proxies": {"base_model": policy},
        "logprobs": {"policy": policy, "reference": str(tiny_llama_lm(tmp_path / "reference", seed=1, chat=False))},
    }


def test_the_stage_is_there_where_its_section_is(settings: dict[str, Any]) -> None:
    names = ["corpus", "proxies", "scores", "logprobs", "selection"]
    assert [step.stage.name for step in plan(build_config(settings))] == names
    del settings["logprobs"]
    steps = plan(build_config(settings))
    assert [step.stage.name for step in steps] == [name for name in names if name != "logprobs"]
    with pytest.raises(UserError, match=r"the configuration has no logprobs section; add one"):
        up_to(steps, "logprobs")


@pytest.mark.parametrize(("strategy", "depends"), [("pd", False), ("fusion", True)])
def test_other_log_probabilities_are_another_selection_only_where_they_are_read(
    settings: dict[str, Any], strategy: str, depends: bool
) -> None:
    settings["selection"] = {"strategy": strategy}
    before = plan(build_config(settings))
    after = plan(build_config(settings, ["logprobs.max_tokens=100"]))
    changed = [one.stage.name for one, other in zip(before, after, strict=True) if one.fingerprint != other.fingerprint]
    assert changed == (["logprobs", "selection"] if depends else ["logprobs"])


def test_a_folder_that_is_not_there_is_named(settings: dict[str, Any]) -> None:
    settings["logprobs"]["reference"] = "nowhere"
    with pytest.raises(UserError, match=r"logprobs.reference is .*/nowhere, which holds no config.json"):
        build_config(settings)
