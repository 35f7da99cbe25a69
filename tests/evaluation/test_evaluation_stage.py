"""The evaluation stage: log-probabilities by hand, accuracy by aspect, and what a config may not ask for."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pdray.config import AlignmentConfig, ConfigError, EvaluationConfig, build_config
from pdray.engines.engine import EngineOptions
from pdray.engines.transformers_logps import TransformersLogps
from pdray.engines.vllm_generation import Answer, Decoding
from pdray.evaluation.stage import STAGE, log_probabilities, run
from pdray.responses import CutRule
from pdray.schema import AlignmentOutput, EvaluationOutput
from pdray.stages import StageResult
from pdray.storage import StoragePath
from tests.evaluation.stand_in import longer_wins, stand_in
from tests.stages import finished, run_stage
from tests.tiny import tiny_llama_lm, tiny_llama_reward

WORDS = ("a dull plain reply", "one bright and helpful answer", "no", "quite a long and winding story of nothing")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy and its reference, below one run folder; the policy's weights were moved."""
    root = tmp_path_factory.mktemp("run")
    reference = tiny_llama_lm(root / "reference")
    policy = tiny_llama_lm(root / "alignment-test" / "policy")
    model = AutoModelForCausalLM.from_pretrained(policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(policy)
    return {"root": root, "policy": policy, "reference": reference}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"what of {row // 2} ?",
            "chosen": WORDS[row % 4],
            "rejected": WORDS[(row + 1) % 4],
            "aspect": ["x", "y"][row % 2],
        }
        for row in range(12)
    ]


def plain_logp(folder: Path, prompt: str, response: str) -> float:
    """One text at a time, by the definition."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + response + tokenizer.eos_token)["input_ids"]])
    with torch.no_grad():
        logps = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
    return float(logps.gather(1, ids[0, 1:, None])[start - 1 :].sum())


@pytest.mark.usefixtures("ray_local")
def test_accuracy_is_that_of_the_log_ratios(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "held-out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows(), {"prompt": "half a pair"}]))
    upstream = finished("alignment", StoragePath(str(models["root"])), AlignmentOutput("alignment-test/policy"))
    sections = {
        "alignment": AlignmentConfig(policy=str(models["reference"]), max_tokens=64),
        "evaluation": EvaluationConfig(pairs=str(file)),
    }
    result = run_stage(STAGE, models["root"], upstream=upstream, **sections)
    margins = []
    for row in rows():
        ratios = [
            plain_logp(models["policy"], row["prompt"], row[side])
            - plain_logp(models["reference"], row["prompt"], row[side])
            for side in ("chosen", "rejected")
        ]
        margins.append(ratios[0] - ratios[1])
    table = pq.read_table(models["root"] / "evaluation-test" / "pairs.parquet")
    np.testing.assert_allclose(table["margin"].to_numpy(), margins, atol=1e-4)
    right = np.array(margins) > 0
    assert 0 < right.sum() < 12
    assert result.output == EvaluationOutput(12)
    assert (result.rows_in, result.rows_out, sum(result.dropped.values())) == (13, 12, 1)
    assert result.metrics["accuracy"]["mean"] == pytest.approx(right.mean(), abs=1e-6)
    assert result.metrics["accuracy"]["low"] < right.mean() < result.metrics["accuracy"]["high"]
    assert {name: found["pairs"] for name, found in result.metrics["aspects"].items()} == {"x": 6, "y": 6}
    assert result.metrics["aspects"]["x"]["mean"] == pytest.approx(right[::2].mean(), abs=1e-6)


class Talker:
    """Stands in for a policy in vLLM; writes down who was asked how much."""

    def __init__(self, folder: str, options: EngineOptions, decoding: Decoding) -> None:
        self.name, self.log = Path(folder).name, Path(folder).parents[Path(folder).name == "policy"] / "asked.txt"

    def answers(self, prompts: list[str]) -> list[Answer]:
        with self.log.open("a") as file:
            file.write(f"{self.name} {len(prompts)}\n")
        return [Answer(self.say(prompt), 3, False) for prompt in prompts]

    def say(self, prompt: str) -> str:
        number = int(prompt.split()[2])
        return "yes" if number == 5 else "go on " * (number + 1) if self.name == "policy" else "now " * 6


def here(function: Callable[..., Any], jobs: list[tuple[Any, ...]], *limits: Any, **resources: Any) -> Iterator[Any]:
    """Tasks in this process, which has imported the models' libraries already; tests/integration has them in Ray."""
    yield from enumerate(function(*job) for job in jobs)


def judge_by_hand(folder: Path, prompt: str, answer: str) -> float:
    from transformers import AutoModelForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer)]
    ids = [tokenizer.bos_token_id, *parts[0], *parts[1], tokenizer.eos_token_id]
    with torch.no_grad():
        return float(model(torch.tensor([ids])).logits[0].mean())


@pytest.mark.usefixtures("ray_local")
def test_answers_are_generated_once_and_judged_by_all(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("generation", "reward_judge"):
        monkeypatch.setattr(f"pdray.evaluation.{room}.run_tasks", here)
    root, judge = models["root"], tiny_llama_reward(tmp_path / "judge", num_labels=2)
    file = tmp_path / "held-out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    upstream = finished("alignment", StoragePath(str(root)), AlignmentOutput("alignment-test/policy"))
    alignment = AlignmentConfig(policy=str(models["reference"]), max_tokens=64)
    stage = replace(STAGE, run=partial(run, load=Talker))

    def evaluated(**judges: Any) -> StageResult:
        evaluation = EvaluationConfig(pairs=str(file), generation={"max_tokens": 8, "prompt_tokens": 32}, **judges)
        return run_stage(stage, root, "won", upstream=upstream, alignment=alignment, evaluation=evaluation)

    reward_models = {"rm": {"path": str(judge), "max_tokens": 64}}
    first = evaluated(reward_models=reward_models)
    assert sorted((root / "asked.txt").read_text().splitlines()) == ["policy 6", "reference 6"]
    table = pq.read_table(root / "evaluation-won" / "comparisons.parquet").to_pylist()
    for row in table:
        margin = judge_by_hand(judge, row["prompt"], row["answer.policy"]) - judge_by_hand(
            judge, row["prompt"], row["answer.baseline"]
        )
        assert row["value.rm"] == (0.5 if row["answer.policy"] == row["answer.baseline"] else float(margin > 0))
    with stand_in(longer_wins) as server:
        endpoints = {"gpt": {"url": server.url, "model": "judge"}}
        both = evaluated(reward_models=reward_models, endpoints=endpoints)
        assert len(server.questions) == 10  # of six comparisons, one has the same answer twice
        assert evaluated(reward_models=reward_models, endpoints=endpoints).metrics == both.metrics | {"computed": 0}
        assert len(server.questions) == 10
    assert len((root / "asked.txt").read_text().splitlines()) == 2
    assert both.metrics["win_rates"]["rm"] == first.metrics["win_rates"]["rm"]
    gpt = both.metrics["win_rates"]["gpt"]
    # Six letters, 1 to 5 times, against 24; and the sixth answers are the same.
    assert {key: gpt[key] for key in ("wins", "ties", "losses", "failed", "inconsistent")} == {
        "wins": 1, "ties": 2, "losses": 3, "failed": 0, "inconsistent": 0,
    }  # fmt: skip
    assert (gpt["mean"], gpt["average_win_score"]["mean"]) == (
        pytest.approx(2 / 6, abs=1e-6),
        pytest.approx(4 / 6, abs=1e-6),
    )
    mean = both.metrics["win_rates"]["mean"]["mean"]
    assert mean == pytest.approx((gpt["mean"] + first.metrics["win_rates"]["rm"]["mean"]) / 2, abs=1e-6)
    assert both.metrics["answers"] == {
        "prompts": 6, "policy_tokens": 3.0, "policy_cut": 0, "baseline_tokens": 3.0, "baseline_cut": 0,
    }  # fmt: skip


def test_a_text_is_read_as_the_alignment_reads_it(models: dict[str, Path]) -> None:
    row = {"prompt": "word " * 40, "chosen": "yes", "rejected": "no"}
    cut = log_probabilities(pa.Table.from_pylist([row]), [str(models["policy"])], CutRule(24, 12), 0)
    assert cut.shape == (1, 1, 2)
    assert np.isfinite(cut).all()
    whole = plain_logp(models["policy"], row["prompt"], row["chosen"])
    assert cut[0, 0, 0] != pytest.approx(whole, abs=1e-3)


def test_one_model_is_let_go_of_before_the_next_one_loads(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []

    class Watched(TransformersLogps):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert not any(model() for model in loaded)
            super().__init__(*args, **kwargs)
            self._model.forward = self._model.forward  # refers to itself, as where it is split over GPUs
            loaded.append(weakref.ref(self._model))

    monkeypatch.setattr("pdray.engines.transformers_logps.TransformersLogps", Watched)
    pairs = pa.Table.from_pylist(rows()[:1])
    log_probabilities(pairs, [str(models["policy"]), str(models["reference"])], CutRule(24, 12), 0)
    assert len(loaded) == 2


def test_without_an_alignment_there_is_nothing_to_judge(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    data = {
        "run": str(tmp_path / "run"),
        "corpus": {"path": str(tmp_path / "pairs.jsonl")},
        "proxies": {"base_model": str(tiny_llama_lm(tmp_path / "base"))},
        "evaluation": {"pairs": str(tmp_path / "pairs.jsonl")},
    }
    with pytest.raises(ConfigError, match="without an alignment section no policy is trained"):
        build_config(data)
    data["alignment"] = {"policy": data["proxies"]["base_model"]}
    data["evaluation"] = {"pairs": str(tmp_path / "nowhere.jsonl")}
    with pytest.raises(ConfigError, match=r"evaluation\.pairs is .*nowhere\.jsonl, where no file is"):
        build_config(data)


def test_the_bytes_of_the_pairs_decide_and_not_where_they_lie(tmp_path: Path) -> None:
    def prints(name: str, text: str) -> dict[str, Any]:
        (tmp_path / name).write_text(text)
        sections = {
            "evaluation": EvaluationConfig(pairs=str(tmp_path / name)),
            "alignment": AlignmentConfig(policy="x"),
        }
        return STAGE.settings(SimpleNamespace(seed=0, **sections))  # type: ignore[arg-type]

    assert prints("a.jsonl", "1") == prints("b.jsonl", "1") != prints("c.jsonl", "2")
