"""Configs of any values, in the file and by --set, and files that are no config."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.case import check
from tests.fuzz.damage import Damage, damages, remove
from tests.fuzz.values import likely, settings_of, texts, values
from tests.fuzz.world import World, cases, write_yaml

NAMES = settings_of()
known = st.sampled_from(NAMES)
unknown = st.builds("{}.{}".format, known, texts) | texts
GOOD: list[tuple[str, Any]] = [
    ("seed", 7), ("cluster", None), ("cluster.address", "auto"), ("corpus.aspects", ["helpful", "honest", "x"]),
    ("scores", {}),
    ("corpus.columns.source", "aspect"), ("corpus.max_quarantined", 1), ("proxies.share", 0.5), ("proxies.held_out",
    0.5),
    ("proxies.length_penalty", 0), ("scores.dtype", "float16"), ("scores.prompt_tokens", 4), ("scores.engine", "vllm"),
    ("scores.engine_args", {}), ("selection.budget", "0.5"), ("selection.gamma", 1), ("selection.rank", "none"),
    ("selection.strategy", "random"), ("selection.strategy", "fusion"), ("logprobs.engine", "transformers"),
    ("alignment", None), ("alignment.beta", "1e-5"), ("alignment.zero_stage", 3),
    ("alignment.deepspeed", {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}),
    ("alignment.num_workers", 8),
]  # fmt: skip
# A part of the changes is taken, so that what comes after the config is reached as well.
changes = st.one_of(
    st.lists(st.sampled_from(GOOD), min_size=1, max_size=6),
    st.lists(st.tuples(known, likely), min_size=1, max_size=3),
    st.lists(st.tuples(known, values), min_size=1, max_size=2),
    st.lists(st.tuples(known | unknown, values | likely), min_size=1, max_size=3),
)


def changed(settings: dict[str, Any], changes: list[tuple[str, Any]]) -> dict[str, Any]:
    """Settings with some of them replaced; a name of several parts goes as deep as there are sections."""
    settings = copy.deepcopy(settings)
    for name, value in changes:
        *parents, leaf = name.split(".")
        section = settings
        for parent in parents:
            inner = section.get(parent)
            if not isinstance(inner, dict):
                inner = section[parent] = {}
            section = inner
        section[leaf] = value
    return settings


@cases(400)
@given(changes=changes)
def test_settings_of_any_value(world: World, changes: list[tuple[str, Any]]) -> None:
    path = write_yaml(world.root / "fuzzed.yaml", changed(world.settings, changes))
    check("config", "run", str(path), "--dry-run")


@cases(300)
@given(changes=changes, style=st.sampled_from([json.dumps, str, yaml.safe_dump]))
def test_overrides_of_any_value(world: World, changes: list[tuple[str, Any]], style: Any) -> None:
    words = [word for name, value in changes for word in ("--set", f"{name}={style(value)}")]
    check("--set", "run", str(world.config), "--dry-run", *words)


@cases(200)
@given(damage=damages(["run.yaml"]), twice=st.booleans())
def test_files_that_are_damaged(world: World, here: Path, damage: Damage, twice: bool) -> None:
    text = world.config.read_text()
    remove(here / "run.yaml")
    (here / "run.yaml").write_text(text + text if twice else text)
    damage.apply(here)
    check("config file", "run", "run.yaml", "--dry-run")


TAGS = ["!!binary YQ==", "!!set {a}", "!!omap [a: 1]", "!!timestamp 2001-01-01", "2001-01-01",
"!!python/object:os.x {}",
        "!!float .nan", "-.inf", "0b11", "1:30", "&x [*x]", "*x", "<<", "? [a]", "!x y", "!!str", "|\n  a",
        "- a\n- b", "@", "`", "%",
        "!!binary gID/", "0o7", "'\\ud800'", '"\\ud800"', '"\\0"', "[a: b, c]", "{a, b}", "{1: 2}", "{null: 1}",
        "{[1]: 2}"]  # fmt: skip


@cases(200)
@given(name=st.sampled_from(NAMES), tag=st.sampled_from(TAGS), as_file=st.booleans())
def test_values_that_only_yaml_knows(world: World, name: str, tag: str, as_file: bool) -> None:
    if not as_file:
        check("YAML value", "run", str(world.config), "--dry-run", "--set", f"{name}={tag}")
        return
    path = world.root / "fuzzed.yaml"
    write_yaml(path, changed(world.settings, [(name, "REPLACED")]))
    path.write_text(path.read_text().replace("REPLACED", tag))
    check("YAML value", "run", str(path), "--dry-run")
