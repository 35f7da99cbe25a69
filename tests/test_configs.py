"""The runs in ``configs/``: each is a valid config, and stands the dry run with small models of its architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pdray.builders.build import build
from pdray.builders.catalogue import DATA_SETS
from pdray.config import RunConfig
from pdray.dryrun import dry_run
from tests.builders import published
from tests.tiny import tiny_llama_lm

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
NAMES = ("helpsteer2-llama3.1-8b", "ten-million-pairs", "ultrafeedback-llama3.1-8b")
STAGES = ("corpus", "proxies", "scores", "selection", "alignment")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of each kind that the configs name, and a Llama of two layers."""
    root = tmp_path_factory.mktemp("inputs")
    # As many positions as Llama-3.1 and 3.2; no chat template, which the dry run tries out in a process of its own.
    tiny_llama_lm(root / "llama", max_positions=131_072, chat=False)
    rated = [
        published.helpsteer(f"q{i}", text, i % 5, 1, j, 2 - j, j) for i in range(20) for j, text in enumerate("ab")
    ]
    for name, rows in (("helpsteer2", rated), ("ultrafeedback", published.ultrafeedback(20))):
        build(name, str(root / name), [published.write_lines(root / f"{name}.jsonl", rows)])
    return root


def test_the_configs_are_those_that_are_tested() -> None:
    assert tuple(path.stem for path in CONFIGS) == NAMES


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_config_is_complete_and_valid(path: Path) -> None:
    config = RunConfig.model_validate(yaml.safe_load(path.read_text()))
    assert config.alignment is not None
    on_gpus = (config.proxies.gpus_per_worker, config.scores.gpus_per_actor, config.alignment.gpus_per_worker)
    assert on_gpus == (1, 1, 1)
    for name, known in DATA_SETS.items():
        if path.stem.startswith(f"{name}-"):
            assert config.corpus.aspects == list(known.layout.aspects)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_dry_run_with_small_models_of_the_architecture_finds_nothing_wrong(
    path: Path, inputs: Path, tmp_path: Path
) -> None:
    corpus = inputs / ("helpsteer2" if path.stem.startswith("helpsteer2") else "ultrafeedback")
    settings = {
        "run": tmp_path / "run",
        "corpus.path": corpus,
        "proxies.base_model": inputs / "llama",
        "alignment.policy": inputs / "llama",
    }
    told = dry_run(str(path), [f"{key}={value}" for key, value in settings.items()])
    assert [line.split()[:3] for line in told.splitlines()[-len(STAGES) :]] == [
        [stage, "to", "run"] for stage in STAGES
    ]


def test_the_dry_run_sees_models_that_read_too_little(inputs: Path, tmp_path: Path) -> None:
    short = tiny_llama_lm(tmp_path / "short", max_positions=1024, chat=False)
    settings = {"run": tmp_path / "run", "corpus.path": inputs / "helpsteer2", "proxies.base_model": short}
    overrides = [f"{key}={value}" for key, value in (settings | {"alignment.policy": inputs / "llama"}).items()]
    with pytest.raises(ValueError, match=r"scores\.max_tokens is 4096, but .*short reads at most 1024"):
        dry_run(str(CONFIGS[0]), overrides)
    assert json.loads((short / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
