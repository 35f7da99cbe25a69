"""What the dry run says that only a worker used to find, and all of it at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import pdray
from pdray.dryrun import dry_run
from pdray.errors import UserError
from tests.models.cases import drop_weights, edit_json
from tests.tiny import tiny_bert, tiny_llama_lm

PAIRS = [
    {"prompt": f"q{row}", "chosen": "a", "rejected": "b", "aspect": ("helpful", "honest")[row % 2]} for row in range(8)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models by name."""
    root = tmp_path_factory.mktemp("models")
    tiny_llama_lm(root / "policy", chat=False)
    tiny_bert(root / "base")
    for name in ("helpful", "honest"):
        tiny_bert(root / name)
    return root


@pytest.fixture
def world(models: Path, tmp_path: Path) -> Path:
    """A copy of them beside a corpus."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "pairs.parquet")
    return tmp_path


def told(world: Path, **changes: Any) -> list[str]:
    """The sentences of a dry run; none where it finds nothing."""
    settings: dict[str, Any] = {
        "run": str(world / "run"),
        "corpus": {"path": str(world / "pairs.parquet")},
        "proxies": {"models": {name: str(world / name) for name in ("helpful", "honest")}},
        "scores": {"engine": "transformers", "max_tokens": 32},
        "alignment": {"policy": str(world / "policy"), "max_tokens": 32, "num_workers": 1},
    }
    (world / "run.yaml").write_text(yaml.safe_dump(settings | changes))
    try:
        dry_run(str(world / "run.yaml"), [])
    except UserError as error:
        return error.sentences
    return []


def test_weights_that_do_not_fit_their_architecture(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(world) == []
    assert told(world, proxies={"base_model": str(world / "base"), "train": "head"}) == []
    drop_weights(world / "policy", "layers.0.self_attn.q_proj")
    drop_weights(world / "honest", "classifier.bias")
    edit_json(world / "helpful", "config.json", intermediate_size=7)
    first, second, third = told(world)
    assert first.startswith(f"proxies.models.helpful is {world}/helpful, which holds ") and "another size" in first
    assert second.startswith(f"proxies.models.honest is {world}/honest, which lacks 1 weights")
    assert third.startswith(f"alignment.policy is {world}/policy, which lacks 1 weights of a LlamaForCausalLM")
    assert len(told(world, alignment=None)) == 2
    drop_weights(world / "base", "layer.0.attention.self.query")
    (only,) = told(world, alignment=None, proxies={"base_model": str(world / "base"), "train": "head"})
    assert only.startswith(f"proxies.base_model is {world}/base, which lacks 2 weights")


def test_a_run_refuses_the_same_weights_before_ray_starts(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray_session", "present_ray"):
        monkeypatch.setattr(f"pdray.runtime.{name}", lambda cluster: pytest.fail("Ray was started"))
    drop_weights(world / "policy", "layers.0.self_attn.q_proj")
    drop_weights(world / "honest", "classifier.bias")
    found = told(world)
    assert len(found) == 2
    with pytest.raises(UserError) as refused:
        pdray.Run(world / "run.yaml").run()
    assert refused.value.sentences == found
    proxies = {name: str(world / name) for name in ("helpful", "honest")}
    with pytest.raises(UserError) as refused:
        pdray.score_pairs(pa.Table.from_pylist(PAIRS), proxies, engine="transformers", max_tokens=32)
    assert refused.value.sentences == found[:1]


def test_the_baseline_of_answers_is_held_against_its_weights(world: Path) -> None:
    baseline = shutil.copytree(world / "policy", world / "baseline")
    generation = {"baseline": str(baseline), "max_tokens": 8, "prompt_tokens": 8}
    evaluation = {"pairs": str(world / "pairs.parquet"), "generation": generation}
    assert told(world, evaluation=evaluation) == []
    drop_weights(baseline, "layers.0.self_attn.q_proj")
    (only,) = told(world, evaluation=evaluation)
    assert only.startswith(f"evaluation.generation.baseline is {baseline}, which lacks 1 weights of a LlamaForCausalLM")
    edit_json(baseline, "config.json", quantization_config={"quant_method": "awq"})
    assert told(world, evaluation=evaluation) == []


def test_everything_that_is_wrong_at_once(world: Path) -> None:
    drop_weights(world / "policy", "layers.0.self_attn.q_proj")
    pq.write_table(pa.Table.from_pylist(PAIRS).slice(0, 0), world / "pairs.parquet")
    (world / "run").touch()
    found = told(world, selection={"weights": {"helpfull": 1}, "strategy": "pd_potential"})
    for word in ("cannot write to the run folder", "holds a row", "helpfull", "logprobs section", "lacks 1 weights"):
        assert sum(word in one for one in found) == 1, (word, found)


def test_adapters_that_fit_no_layer(world: Path) -> None:
    policy = {"policy": str(world / "policy"), "max_tokens": 32, "num_workers": 1}
    for modules in ("all-linear", ["q_proj"], r".*\.q_proj"):
        assert told(world, alignment=policy | {"lora": {"target_modules": modules}}) == []
    proxies = {"base_model": str(world / "base"), "lora": {"target_modules": "nope"}}
    both = told(world, proxies=proxies, alignment=policy | {"lora": {"target_modules": ["nope", "none"]}})
    assert [one.partition(" is ")[0] for one in both] == [
        "proxies.lora.target_modules",
        "alignment.lora.target_modules",
    ]
    assert "all-linear" in both[0] and "all-linear" in both[1]


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/x", "file", "file/x"])
def test_a_run_folder_that_cannot_be_written(world: Path, place: str) -> None:
    (world / "file").touch()
    (only,) = told(world, run=str(world / place), alignment=None)
    assert only == f"cannot write to the run folder {world / place}: Not a directory; set run to another"


def test_a_run_folder_that_is_closed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **options: not mode & os.W_OK and access(path, mode, **options)
    )
    (only,) = told(world, run=str(world / "a" / "b"), alignment=None)
    assert only == f"cannot write to the run folder {world}/a/b: Permission denied; set run to another"


@pytest.mark.parametrize("name", ["shared", "rounds"])
def test_a_file_in_the_place_of_a_folder_of_the_run(world: Path, name: str) -> None:
    (world / "run").mkdir()
    (world / "run" / name).touch()
    (only,) = told(world, alignment=None)
    assert only == (
        f"{world}/run/{name} should be a folder, but a file stands there; move it away: mv {world}/run/{name} "
        f"{world}/run/{name}.damaged"
    )


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"helpfull": 1}, "selection.weights names helpfull, but proxies.models has the aspects helpful, honest"),
        ({"helpful": 0, "honest": 0}, "selection.weights gives every aspect .* the weight 0"),
        ({"helpful": 0}, None),
    ],
)
def test_weights_of_the_selection(world: Path, weights: dict[str, float], sentence: str | None) -> None:
    found = told(world, alignment=None, selection={"weights": weights})
    assert len(found) == (sentence is not None)
    if sentence is not None:
        with pytest.raises(UserError, match=sentence):
            raise UserError(*found)
