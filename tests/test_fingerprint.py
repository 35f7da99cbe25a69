"""What decides a result is in a stage's fingerprint, what does not is not: every setting is changed once."""

from __future__ import annotations

import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from pdray.config import RunConfig, Section, build_config, section_of
from pdray.pipeline import load_stages
from pdray.store import fingerprint
from tests import tiny

# Where a run is written and which Ray it uses decides nothing.
ELSEWHERE = ("run", "cluster")
# Where inputs lie decides nothing either, what lies there does: see the tests at the end.
INPUTS = (
    "corpus.path",
    "proxies.base_model",
    "proxies.models",
    "logprobs.policy",
    "logprobs.reference",
    "alignment.policy",
    "evaluation.pairs",
    "evaluation.generation.prompts",
    "evaluation.generation.baseline",
    "evaluation.reward_models.rm.path",
)
# Where a value of the right type is not yet one that can be looked up.
OTHERS: dict[str, Any] = {"strategy": "longest", "weights": {"helpfulness": 2.0}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("inputs")
    tiny.tiny_llama_lm(root / "policy")
    (root / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b", "aspect": "x"}\n')
    return build_config(
        {
            "run": "/unused",
            "corpus": {"path": str(root / "pairs.jsonl")},
            "proxies": {"base_model": str(tiny.tiny_llama_reward(root / "base")), "lora": {}},
            # Left out, the dtype follows gpus_per_actor, and then that decides a result.
            "scores": {"dtype": "float32"},
            "logprobs": {
                "dtype": "float32",
                "policy": str(root / "policy"),
                "reference": str(tiny.tiny_llama_lm(root / "reference", seed=1)),
            },
            "crossfit": {"dtype": "float32"},
            "alignment": {"policy": str(root / "policy"), "lora": {}},
            "evaluation": {
                "pairs": str(root / "pairs.jsonl"),
                "generation": {
                    "prompts": str(root / "pairs.jsonl"),
                    "baseline": str(root / "policy"),
                    "dtype": "float32",
                },
                "reward_models": {"rm": {"path": str(root / "base")}},
                "endpoints": {"gpt": {"url": "http://localhost", "model": "m"}},
            },
        }
    )


def fingerprints(config: RunConfig) -> dict[str, str]:
    return {stage.name: fingerprint(stage.settings(config)) for stage in load_stages(config)}


def settings_of(section: Section, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its full name, those of sections in sections included."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from settings_of(value, f"{prefix}{name}.")
        elif section_of(field) is not None and value is not None:
            for key, one in value.items():
                yield from settings_of(one, f"{prefix}{name}.{key}.")
        else:
            yield prefix + name, field


def changed(section: Any, names: list[str], field: FieldInfo) -> Any:
    name, *rest = names
    if isinstance(section, dict):
        return section | {name: changed(section[name], rest, field)}
    value = getattr(section, name)
    other = changed(value, rest, field) if rest else OTHERS.get(name) or another(value, field.annotation)
    assert other != value, f"{name} was not changed"
    return section.model_copy(update={name: other})


def another(value: Any, annotation: Any) -> Any:
    """A value of the same type that is not this one."""
    kind = get_origin(annotation) or annotation
    if kind in (Union, types.UnionType):
        return another(value, next(part for part in get_args(annotation) if part is not types.NoneType))
    if kind is Annotated:
        return another(value, get_args(annotation)[0])
    if kind is Literal:
        return next(choice for choice in reversed(get_args(annotation)) if choice != value)
    others: dict[Any, Any] = {
        bool: lambda: not value,
        int: lambda: (value or 0) + 1,
        float: lambda: (value or 0) + 0.5,
        str: lambda: f"{value or ''}x",
        list: lambda: ["x"],
        dict: lambda: {"x": "y"},
    }
    return others[kind]()


def names() -> list[str]:
    example = RunConfig.model_validate(
        {
            "corpus": {"path": "x"},
            "proxies": {"base_model": "x", "lora": {}},
            "logprobs": {"policy": "x"},
            "crossfit": {},
            "alignment": {"policy": "x", "lora": {}},
            "evaluation": {
                "pairs": "x",
                "generation": {"prompts": "x", "baseline": "x"},
                "reward_models": {"rm": {"path": "x"}},
                "endpoints": {"gpt": {"url": "http://x", "model": "x"}},
            },
        }
    )
    return [name for name, _ in settings_of(example)]


@pytest.mark.parametrize("name", [name for name in names() if name not in INPUTS])
def test_every_setting_is_how_or_what(config: RunConfig, name: str) -> None:
    field = dict(settings_of(config))[name]
    extra = field.json_schema_extra
    how = (isinstance(extra, dict) and extra.get("fingerprint") is False) or name.startswith(ELSEWHERE)
    before, after = fingerprints(config), fingerprints(changed(config, name.split("."), field))
    assert (before == after) is how, f"{name} is said to decide {'nothing' if how else 'a result'}"


def test_the_test_sees_many_settings_of_both_kinds() -> None:
    assert len(names()) > 60
    assert {"seed", "corpus.columns.prompt", "scores.num_actors", "alignment.beta"} <= set(names())


@pytest.mark.parametrize("content", ["the same", "another"])
@pytest.mark.parametrize("name", ["corpus", "proxies", "logprobs", "alignment", "evaluation"])
def test_inputs_are_what_lies_there(config: RunConfig, tmp_path: Path, name: str, content: str) -> None:
    """A copy elsewhere is the same input; another content is another."""
    here = Path(config.corpus.patterns[0]).parent
    shutil.copytree(here, tmp_path / "there")
    if content == "another":
        for file in ("pairs.jsonl", "base/config.json", "policy/config.json"):
            (tmp_path / "there" / file).write_text((tmp_path / "there" / file).read_text() + " ")
    text = getattr(config, name).model_dump_json().replace(str(here), str(tmp_path / "there"))
    moved = config.model_copy(update={name: type(getattr(config, name)).model_validate_json(text)})
    before, after = fingerprints(config), fingerprints(moved)
    expected = {"alignment": ["crossfit", "alignment"]}.get(name, [name]) if content == "another" else []
    assert [stage for stage in before if before[stage] != after[stage]] == expected
