"""Rates from the manifests of finished runs: what is put into a manifest comes out again, and no more than that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdray.config import RunConfig
from pdray.identity import model_identity
from pdray.plan import calibrate, finished, flops
from pdray.plan.cost import Known, Model
from pdray.plan.hardware import Hardware
from pdray.plan.passes import reading, reading_apart
from pdray.plan.rates import Rate, rate_key
from pdray.plan.stages import stage_costs
from tests.plan.cases import facts_of, known_of
from tests.tiny import tiny_bert, tiny_llama_lm

HERE = Hardware("here", None, 0, 1, 2.0, 24.0, here=True)
SPEED = {"scoring": Rate(0.03, 20.0), "training": Rate(0.02, 30.0), "alignment": Rate(0.04, 40.0)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proxy and a policy."""
    root = tmp_path_factory.mktemp("models")
    tiny_bert(root / "base")
    tiny_llama_lm(root / "policy", chat=False)
    return root


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the hardware of these tests has, wherever they run."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config_at(models: Path, run: Path) -> RunConfig:
    """A run on CPUs; its alignment takes 2 pairs a pass, all proxies are one."""
    return RunConfig.model_validate(
        {
            "run": str(run),
            "corpus": {"path": "x.parquet", "texts_per_shard": 10**9},
            "proxies": {"base_model": str(models / "base"), "kind": "shared", "length_baseline": False},
            "scores": {"engine": "transformers"},
            "selection": {"strategy": "all"},
            "alignment": {"policy": str(models / "policy"), "batch_size": 2, "held_out": 0, "zero_stage": 0},
        }
    )


def known_at(config: RunConfig, measured: dict[str, Rate] | None = None) -> Known:
    """All that is known of it; the shapes are those of large models, so that seconds are whole."""
    known = known_of(config, HERE, corpus=facts_of(4000), rate_key=rate_key, measured=measured or {})
    assert known.policy is not None and config.alignment is not None
    (proxy,) = known.proxies.values()
    models = {"proxies.base_model": proxy}
    policy = Model(config.alignment.policy, known.policy.shape)
    pairs = {"policy_pairs": type(known.policy_pairs)(np.array([500]))}  # type: ignore[call-arg,misc]
    return Known(**vars(known) | {"proxies": models, "policy": policy} | pairs)


def write_run(config: RunConfig, known: Known, **changes: Any) -> None:
    """A run folder whose manifests say what a plan at :data:`SPEED` predicts."""
    assert config.alignment is not None and config.proxies.base_model is not None
    rates = {
        rate_key(work, folder, "float32", False): SPEED[work]
        for work, folder in (
            ("scoring", config.proxies.base_model),
            ("training", config.proxies.base_model),
            ("alignment", config.alignment.policy),
        )
    }
    costs = stage_costs(Known(**vars(known) | {"measured": rates}))
    times = {name: (cost.seconds or 0, (cost.seconds or 0) - SPEED[work].start) for name, work, cost in (
        ("scores", "scoring", costs["scores"]),
        ("proxies", "training", costs["proxies"]),
    )}  # fmt: skip
    texts = known.corpus.texts
    (model,) = known.proxies.values()
    assert model.texts is not None
    assert known.policy is not None
    pair = flops.forward_padded(known.policy.shape, 2, 500, True)
    steps, step = 250, 3 * 8 * pair / (SPEED["alignment"].tflops * 1e12)  # 16 pairs a step of two workers
    manifests: dict[str, Any] = {
        "corpus": {"metrics": {"aspects": list("abcd")}, "seconds": 5, "output": _corpus(known)},
        "proxies": {
            "config": {"models": {"proxies.base_model": model_identity(config.proxies.base_model)}},
            "seconds": times["proxies"][0],
            "output": {"models": [], "length_penalty": {}},
            "metrics": {
                "train": "all",
                "trainings": {"model": {"steps": 4 * 900 // 16, "seconds": times["proxies"][1]}},
                "aspects": {aspect: {"held_out_pairs": 100} for aspect in "abcd"},
            },
        },
        "scores": {
            "seconds": times["scores"][0],
            "output": {"num_shards": 1, "aspects": list("abcd"), "texts": int(texts)},
            "metrics": {
                "dtype": "float32",
                "scoring_seconds": times["scores"][1],
                "texts_per_second": texts / times["scores"][1],
                "tokens_per_second": texts * model.texts.whole.mean / times["scores"][1],
                "num_actors": 1,
            },
        },
        "alignment": {
            "config": {"policy_files": model_identity(config.alignment.policy)},
            "seconds": SPEED["alignment"].start + steps * step + 2000 * pair / (SPEED["alignment"].tflops * 1e12),
            "output": {"policy": "alignment-00000000/policy"},
            "metrics": {
                "num_workers": 2,
                "steps": steps,
                "seconds_per_step": step,
                "reference_computed": 4000,
                "eval_pairs": 0,
            },
        },
    }
    root, stages = Path(config.run), {name: f"{name}-00000000" for name in manifests}
    for name, manifest in manifests.items():
        folder = root / stages[name]
        folder.mkdir(parents=True)
        common = {
            "stage": name,
            "rows_in": 1,
            "rows_out": 1,
            "attempts": 1,
            "started": "2026-01-02T03:04:05Z",
            "fingerprint": "0",
        }
        whole = {"metrics": {}, "quarantined": 0, "config": {}, **common, **manifest, **changes.get(name, {})}
        (folder / "manifest.json").write_text(json.dumps(whole))
    (root / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json"), "stages": stages}))


def _corpus(known: Known) -> dict[str, Any]:
    return {
        "num_shards": 1,
        "pairs": 4000,
        "texts": 8000,
        "aspects": list("abcd"),
        "aspect_pairs": dict.fromkeys("abcd", 1000),
        "conversational": False,
    }


def test_the_rates_of_a_run_are_those_that_its_times_were_made_of(models: Path, tmp_path: Path) -> None:
    config = config_at(models, tmp_path / "run")
    known = known_at(config)
    write_run(config, known)
    found = finished.rates_of(config.run, known)
    assert {key.partition(" ")[0] for key in found} == {"scoring", "training", "alignment"}
    for key, rate in found.items():
        expected = SPEED[key.partition(" ")[0]]
        assert rate.tflops == pytest.approx(expected.tflops, rel=0.02)
        assert rate.start == pytest.approx(expected.start, abs=10)
        assert rate.measured == f"{config.run}, 2026-01-02"
    assert set(found) <= calibrate.wanted_keys(known)


@pytest.mark.parametrize(
    ("stage", "change", "left"),
    [
        ("alignment", {"attempts": 2}, {"scoring", "training"}),
        ("alignment", {"config": {"policy_files": [["config.json", "0"]]}}, {"scoring", "training"}),
        ("alignment", {"metrics": {"num_workers": "many"}}, {"scoring", "training"}),
        ("proxies", {"config": {"models": {}}}, {"alignment"}),
        ("proxies", {"metrics": {}}, {"scoring", "alignment"}),
        ("scores", {"metrics": {"dtype": "float32"}}, {"training", "alignment"}),
    ],
)
def test_what_a_manifest_does_not_tell_is_not_told(
    stage: str, change: dict[str, Any], left: set[str], models: Path, tmp_path: Path
) -> None:
    config = config_at(models, tmp_path / "run")
    known = known_at(config)
    write_run(config, known, **{stage: change})
    found = finished.rates_of(config.run, known)
    assert {key.partition(" ")[0] for key in found} == left


@pytest.mark.parametrize("kind", ["together", "apart"])
def test_a_run_whose_texts_were_read_for_features_tells_how_long_they_were(
    kind: str, models: Path, tmp_path: Path
) -> None:
    config = config_at(models, tmp_path / "run")
    known = known_at(config)
    (model,) = known.proxies.values()
    texts, prompts = known.corpus.texts, known.corpus.prompts
    planned = reading_apart(model, texts, prompts) if kind == "apart" else reading(model, texts, prompts, config.scores)
    write_run(
        config,
        known,
        scores={"metrics": {"texts_per_second": 0.0, "dtype": "float32", "scoring_seconds": 0.0, "num_actors": 1}},
        proxies={"metrics": {"features": {"texts": texts}, "readings": {kind: {"tokens": planned.tokens / 2}}}},
    )
    (rate,) = (one for key, one in finished.rates_of(config.run, known).items() if key.startswith("alignment"))
    assert known.policy is not None
    half, whole = (flops.forward_padded(known.policy.shape, 2, length, True) for length in (250, 500))
    assert rate.tflops == pytest.approx(SPEED["alignment"].tflops * half / whole, rel=0.02)


def test_no_run_tells_nothing(models: Path, tmp_path: Path) -> None:
    known = known_at(config_at(models, tmp_path / "run"))
    assert finished.rates_of(str(tmp_path / "nowhere"), known) == {}
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text(json.dumps({"config": {"x": 1}, "stages": {}}))
    assert finished.rates_of(str(tmp_path / "odd"), known) == {}
    assert finished.runs_beside(str(tmp_path / "run")) == [str(tmp_path / "run"), str(tmp_path / "odd")]


def test_a_small_run_has_the_models_and_workers_of_its_config(models: Path, tmp_path: Path) -> None:
    config = config_at(models, tmp_path / "run")
    known = known_at(config)
    settings = calibrate.small_run(config, tmp_path, known)
    small = RunConfig.model_validate(settings)
    assert small.alignment is not None and config.alignment is not None
    assert small.scores == config.scores
    assert small.alignment.policy == config.alignment.policy
    assert (small.alignment.max_steps, small.alignment.held_out) == (1, 0)
    assert small.proxies.max_pairs_per_aspect == calibrate.OF_ASPECT
    assert small.corpus.path == str(tmp_path / "pairs.parquet")
    assert small.run.startswith(str(tmp_path))


def test_a_small_run_has_no_rounds(models: Path, tmp_path: Path) -> None:
    """The log-probabilities that they select by are left out of it."""
    settings = config_at(models, tmp_path / "run").model_dump(mode="json")
    config = RunConfig.model_validate(
        settings
        | {"rounds": 2, "logprobs": {"policy": str(models / "policy")}, "selection": {"strategy": "pd_potential"}}
    )
    assert RunConfig.model_validate(calibrate.small_run(config, tmp_path, known_at(config))).rounds == 1


def test_a_small_run_trains_nothing_for_other_folds(models: Path, tmp_path: Path) -> None:
    settings = config_at(models, tmp_path / "run").model_dump(mode="json")
    config = RunConfig.model_validate(
        settings | {"crossfit": {"max_steps": 500}, "selection": {"strategy": "selective"}}
    )
    assert RunConfig.model_validate(calibrate.small_run(config, tmp_path, known_at(config))).crossfit is None
