"""What decides a result is in a stage's fingerprint, what does not is not: every setting is changed once."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from pdray.config import RunConfig, Section, build_config, section_of
from pdray.pipeline import load_stages
from pdray.store import fingerprint
from tests import tiny

# Where a run is written and which Ray it uses decides nothing.
ELSEWHERE = ("run", "cluster")
# Where inputs lie decides nothing either, what lies there does: see the tests at the end.
INPUTS = ("corpus.path", "proxies.base_model", "proxies.models", "alignment.policy")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("inputs")
    return build_config(inputs(root, "one"))


def inputs(root: Path, word: str) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    line = f'{{"prompt": "{word}", "chosen": "a", "rejected": "b", "aspect": "x"}}\n'
    (root / "pairs.jsonl").write_text(line)
    return {
        "run": "/unused",
        "corpus": {"path": str(root / "pairs.jsonl")},
        "proxies": {"base_model": str(tiny.tiny_llama_reward(root / "base"))},
        "scores": {"dtype": "float32"},  # what null stands for depends on GPUs
        "alignment": {"policy": str(tiny.tiny_llama_lm(root / "policy"))},
    }


def fingerprints(config: RunConfig) -> dict[str, str]:
    return {stage.name: fingerprint(stage.settings(config)) for stage in load_stages(config)}


def settings_of(section: Section, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its full name, those of sections in sections included."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if section_of(field) is not None and value is not None:
            yield from settings_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def changed(section: Section, names: list[str], field: FieldInfo) -> Section:
    name, *rest = names
    value = getattr(section, name)
    other = changed(value, rest, field) if rest else another(value, field.annotation)
    assert other != value, f"{name} was not changed"
    return section.model_copy(update={name: other})


def another(value: Any, annotation: Any) -> Any:
    """A value of the same type that is not this one."""
    while hasattr(annotation, "__metadata__") or get_origin(annotation) in (types.UnionType, Union):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return next(choice for choice in reversed(get_args(annotation)) if choice != value)
    kind = get_origin(annotation) or annotation
    if kind in (int, float):
        return (value or 0) + kind(1)
    return {bool: not value, str: f"{value}x", list: ["x"], dict: {"x": "y"}}[kind]


def names() -> list[str]:
    example = RunConfig.model_validate(
        {"corpus": {"path": "x"}, "proxies": {"base_model": "x"}, "alignment": {"policy": "x"}}
    )
    return [name for name, _ in settings_of(example)]


@pytest.mark.parametrize("name", [name for name in names() if name not in INPUTS])
def test_every_setting_is_how_or_what(config: RunConfig, name: str) -> None:
    field = dict(settings_of(config))[name]
    extra = field.json_schema_extra
    how = (isinstance(extra, dict) and extra.get("fingerprint") is False) or name.startswith(ELSEWHERE)
    before, after = fingerprints(config), fingerprints(changed(config, name.split("."), field))  # type: ignore[arg-type]
    assert (before == after) is how, f"{name} is said to decide {'nothing' if how else 'a result'}"


def test_the_test_sees_many_settings_of_both_kinds() -> None:
    assert len(names()) > 60
    assert {"seed", "corpus.columns.prompt", "scores.num_actors", "alignment.beta"} <= set(names())


@pytest.mark.parametrize(
    ("section", "stage"), [("corpus", "corpus"), ("proxies", "proxies"), ("alignment", "alignment")]
)
@pytest.mark.parametrize("word", ["one", "two"])
def test_inputs_are_what_lies_there(config: RunConfig, tmp_path: Path, section: str, stage: str, word: str) -> None:
    """A copy elsewhere is the same input; another content is another."""
    other = build_config(inputs(tmp_path / "other", word))
    if word == "two":
        for model in (tmp_path / "other" / "base", tmp_path / "other" / "policy"):
            (model / "config.json").write_text((model / "config.json").read_text() + " ")
    before, after = fingerprints(config), fingerprints(config.model_copy(update={section: getattr(other, section)}))
    assert [name for name in before if before[name] != after[name]] == ([stage] if word == "two" else [])
