"""The proxies stage on real Ray, Ray Train and TRL with tiny models."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdray.errors import UserError
from pdray.progress import Progress
from pdray.proxies import done, linear
from pdray.proxies.stage import STAGE
from pdray.schema import ProxiesOutput, RewardModel
from pdray.scoring.features import read_head
from pdray.shards import ShardedFolder
from pdray.stages import StageResult, Upstream
from pdray.storage import StoragePath
from pdray.texts import read_texts
from pdray.tokens import TextEncoder, TokenRule
from tests.proxies.cases import ASPECTS, make_rows, sections, write_corpus
from tests.stages import finished, join, run_stage
from tests.tiny import tiny_encoder, tiny_llama_lm

pytestmark = pytest.mark.usefixtures("ray_local")
HEAD = {"train": "head", "unified": True, "length_penalty": "auto"}
TOGETHER = {**HEAD, "reading": "together"}
LABELS = [*ASPECTS, "unified"]
ALL: dict[str, Any] = {"train": "all", "epochs": 6, "learning_rate": 0.003, "batch_size": 4, "num_workers": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_rows())


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("bert")))


def margins_of(root: Path, result: StageResult) -> dict[str, np.ndarray]:
    """Reward margins of every pair, from the folders read as anyone would read them."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert isinstance(result.output, ProxiesOutput)
    rows, margins = make_rows(), {}
    for reward_model in result.output.models:
        folder = root / reward_model.path
        encoder = TextEncoder(AutoTokenizer.from_pretrained(folder), TokenRule(32, 16))
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        prompts = [row["prompt"] for row in rows]
        with torch.no_grad():
            chosen, rejected = (
                np.array([model(torch.tensor([ids])).logits[0].tolist() for ids in encoder.encode(prompts, side).ids])
                for side in ([row["chosen"] for row in rows], [row["rejected"] for row in rows])
            )
        assert [model.config.id2label[index] for index in range(len(reward_model.aspects))] in (
            reward_model.aspects,
            ["LABEL_0"],
        )
        margins |= {str(aspect): (chosen - rejected)[:, label] for label, aspect in enumerate(reward_model.aspects)}
    return margins


def check_learned(root: Path, result: StageResult, aspects: list[str] = ASPECTS) -> None:
    assert list(result.metrics["aspects"]) == aspects
    labels = np.array([row["aspect"] for row in make_rows()])
    margins = margins_of(root, result)
    assert list(margins) == aspects
    for aspect in ASPECTS:
        facts = result.metrics["aspects"][aspect]
        assert np.mean(margins[aspect][labels == aspect] > 0) > 0.9, aspect
        assert facts["held_out_accuracy"] > 0.7
        low, high = facts["held_out_interval"]
        assert 0 <= low < facts["held_out_accuracy"] <= high <= 1
        assert facts["held_out_pairs"] == 6
    assert result.rows_in == 120 == result.rows_out + sum(result.dropped.values())


@pytest.fixture(scope="module")
def head_run(tmp_path_factory: pytest.TempPathFactory, corpus: Upstream, bert: str) -> tuple[Path, StageResult]:
    root = tmp_path_factory.mktemp("head")
    return root, run_stage(STAGE, root, upstream=corpus, **sections(base_model=bert, **TOGETHER))


def test_heads_on_a_frozen_encoder(head_run: tuple[Path, StageResult], bert: str) -> None:
    from safetensors.numpy import load_file

    """One for each aspect and one for all of them together, with a length penalty that is found."""
    root, result = head_run
    check_learned(root, result, LABELS)
    output = result.output
    assert isinstance(output, ProxiesOutput)
    (model,) = output.models
    assert (model.path, model.aspects) == ("proxies-test/model", LABELS)
    assert (model.head, model.dense) == ("classifier", "bert.pooler.dense")
    assert (output.features, output.num_shards) == (64, 3)
    every = result.metrics["aspects"]
    assert output.length_penalty == {label: every[label]["length_penalty"] for label in LABELS}
    assert abs(every["unified"]["length_correlation"]["after"]) < 0.2  # its held-out pairs are those of all aspects
    facts = every["helpful"]
    assert facts["converged"]
    assert facts["gradient"] <= (1e-6 if facts["form"] == "linear" else 1e-4)
    losses = facts["validation_loss"]
    assert set(losses) == {"linear", "tanh"}
    assert losses[facts["form"]] == min(losses.values())
    assert any(f"the head of helpful is {facts['form']}" in note for note in result.notes)
    assert -1 <= facts["length_correlation"]["before"] <= 1
    check_agreement(result)
    check_unified(root, result)
    base, saved = load_file(Path(bert) / "model.safetensors"), load_file(root / model.path / "model.safetensors")
    assert all((saved[f"bert.{name}"] == base[name]).all() for name in base if not name.startswith("pooler."))
    assert saved["classifier.weight"].shape == (3, 64)
    assert not saved["classifier.bias"].any()
    assert {path.name for path in (root / "proxies-test").iterdir()} >= {"features", "model", "shards"}
    assert not (root / "proxies-test" / linear.FEATURE_MODELS["together"]).exists()


def test_rewards_of_the_model_are_its_head_on_the_features(
    head_run: tuple[Path, StageResult], corpus: Upstream
) -> None:
    root, result = head_run
    margins, rows = margins_of(root, result), {row["pair_id"]: index for index, row in enumerate(make_rows())}
    head = read_head(StoragePath(str(root / "proxies-test/model")), "classifier", "bert.pooler.dense")
    features = ShardedFolder(StoragePath(str(root / "proxies-test")), "test", 3)
    checked = 0
    for shard in range(3):
        table, pairs = features.read("features", shard), corpus.shards("corpus").read("pairs", shard)
        feature = dict(zip(table["row"].to_pylist(), table["feature"].to_pylist(), strict=True))
        assert list(feature) == sorted(feature)
        for pair in pairs.to_pylist():
            if pair["chosen_row"] in feature and pair["rejected_row"] in feature:
                sides = [feature[pair[f"{side}_row"]] for side in ("chosen", "rejected")]
                chosen, rejected = head.rewards(np.array(sides, np.float32))
                expected = [margins[label][rows[pair["pair_id"]]] for label in LABELS]
                np.testing.assert_allclose(chosen - rejected, expected, atol=1e-4)
                checked += 1
    assert checked >= result.rows_out


@pytest.mark.slow
def test_a_killed_run_continues_with_its_features_and_makes_the_same_bytes(
    tmp_path: Path, head_run: tuple[Path, StageResult], corpus: Upstream, bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies while it fits keeps its features; run again, it makes the same bytes as one that never died."""

    def killed(*_: Any) -> None:
        raise RuntimeError("killed")

    settings = sections(base_model=bert, **TOGETHER)
    with monkeypatch.context() as patched:
        patched.setattr(linear, "_fit_all", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run_stage(STAGE, tmp_path, upstream=corpus, **settings)
    features = tmp_path / "proxies-test" / "features"
    (features / "shard-00001.parquet").write_bytes(b"damaged")
    before = {path.name: path.stat().st_mtime_ns for path in features.iterdir()}
    result = run_stage(STAGE, tmp_path, upstream=corpus, **settings)
    after = {path.name: path.stat().st_mtime_ns for path in features.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"shard-00001.parquet"}
    root, first = head_run
    for name in ("model/model.safetensors", "features/shard-00001.parquet"):
        assert (root / "proxies-test" / name).read_bytes() == (tmp_path / "proxies-test" / name).read_bytes()
    assert result.metrics["agreement"] == first.metrics["agreement"]


@pytest.fixture(scope="module")
def auto_run(tmp_path_factory: pytest.TempPathFactory, corpus: Upstream, bert: str) -> tuple[Path, StageResult]:
    root = tmp_path_factory.mktemp("auto")
    return root, run_stage(STAGE, root, upstream=corpus, **sections(base_model=bert, **HEAD))


def test_auto_takes_the_reading_that_predicts_better(
    auto_run: tuple[Path, StageResult], head_run: tuple[Path, StageResult]
) -> None:
    root, result = auto_run
    compared = result.metrics["readings"]
    assert list(compared) == ["together", "apart"]
    losses = {name: facts["validation_loss"] for name, facts in compared.items()}
    assert losses["together"] != losses["apart"]
    assert result.metrics["reading"] == min(losses, key=lambda name: losses[name])
    assert any(note.startswith(f"prompt and response are read {result.metrics['reading']}") for note in result.notes)
    alone = head_run[1].metrics
    assert alone["reading"] == "together"
    assert alone["readings"]["together"]["validation_loss"] == losses["together"]
    # Every distinct prompt and response has its special tokens once, every text has them once for both.
    assert compared["together"]["tokens"] == alone["readings"]["together"]["tokens"] > compared["apart"]["tokens"] > 0
    assert all(facts["seconds"] > 0 for facts in compared.values())
    assert {path.name for path in (root / "proxies-test").iterdir()} >= {"features", "model", "shards"}
    assert not any((root / "proxies-test" / name).exists() for name in linear.FEATURE_MODELS.values())


@pytest.mark.slow
def test_heads_that_read_apart_and_their_scores(tmp_path: Path, corpus: Upstream, bert: str) -> None:
    """Scoring takes the features that there are and lets an engine read the rest; both give the rewards of the head."""
    from pdray.engines.encode import ModelEncoder
    from pdray.engines.engine import EngineOptions, load_reference
    from pdray.scoring.stage import STAGE as SCORES

    settings = sections(base_model=bert, train="head", reading="apart", share=0.5)
    result = run_stage(STAGE, tmp_path, upstream=corpus, **settings)
    output = result.output
    assert isinstance(output, ProxiesOutput)
    (model,) = output.models
    assert (model.head, model.dense, model.first_feature, output.features) == (None, None, 0, 2 * 64 + 16)
    assert all(facts["held_out_accuracy"] > 0.7 for facts in result.metrics["aspects"].values())
    folder = StoragePath(str(tmp_path / "proxies-test"))
    upstream = join(corpus, finished("proxies", folder, output))
    scored = run_stage(SCORES, tmp_path, upstream=upstream, **settings)
    assert scored.metrics["computed"] > 0 and scored.metrics["reused"] == result.metrics["features"]["texts"]
    engine = load_reference(str(tmp_path / model.path), EngineOptions("transformers", "float32", 32))
    encoder = ModelEncoder([tmp_path / model.path], TokenRule(32, 16))
    for shard in range(3):
        texts = read_texts(corpus.shards("corpus"), shard)
        rewards = ShardedFolder(StoragePath(str(tmp_path / "scores-test")), "test", 3).read("texts", shard)
        expected = engine.score(encoder.encode(texts).ids[0])
        for label, aspect in enumerate(ASPECTS):
            np.testing.assert_allclose(rewards[f"reward.{aspect}"].to_numpy(), expected[:, label], atol=1e-4)


@pytest.mark.slow
def test_scores_of_a_run_that_compared_both_readings(
    auto_run: tuple[Path, StageResult], corpus: Upstream, bert: str
) -> None:
    """The head reads its own part of the features that stand side by side."""
    from pdray.scoring.stage import STAGE as SCORES

    root, result = auto_run
    assert isinstance(result.output, ProxiesOutput)
    assert result.output.features == 64 + 2 * 64 + 16
    assert result.output.models[0].first_feature == (64 if result.metrics["reading"] == "apart" else 0)
    upstream = join(corpus, finished("proxies", StoragePath(str(root / "proxies-test")), result.output))
    scored = run_stage(SCORES, root, upstream=upstream, **sections(base_model=bert, **HEAD))
    assert scored.metrics["max_parity_error_features"] < 1e-4


def fake_killer(flag: Path, last: int) -> Any:
    """Counts steps in a training's worker, and kills it without warning at one of them; once."""

    class FakeKiller:  # of a function, so that it is pickled with its code
        left = last

        def add(self, count: int) -> None:
            self.left -= count
            if self.left <= 0 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    return FakeKiller()


@pytest.mark.slow
def test_all_weights_of_a_decoder_with_two_workers_of_which_one_is_killed(
    tmp_path: Path, corpus: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies in the training of the second aspect; neither that nor the first one begins again."""
    base, flag = str(tiny_llama_lm(tmp_path / "base")), tmp_path / "killed"
    monkeypatch.setattr(Progress, "counting", lambda *_, **__: contextlib.nullcontext(fake_killer(flag, 65)))
    settings = sections(
        base_model=base, kind="separate", length_penalty_form="residual", length_baseline=False, save_steps=20, **ALL
    )
    result = run_stage(STAGE, tmp_path, upstream=corpus, **settings)
    assert flag.exists()
    check_learned(tmp_path, result)
    assert isinstance(result.output, ProxiesOutput)
    assert result.output.length_penalty == dict.fromkeys(ASPECTS, 0.0)
    assert (result.output.features, result.output.num_shards) == (None, 0)
    assert result.metrics["aspects"]["helpful"]["length_correlation"]["before"] is None
    folder, names = tmp_path / "proxies-test", [*map(done.slug, ASPECTS)]
    assert {path.name for path in folder.iterdir()} == {done.DONE, *names}
    trainings = [result.metrics["trainings"][name] for name in names]
    steps = [math.ceil(6 * facts["train_pairs"] / 8) for facts in result.metrics["aspects"].values()]
    assert [(one["steps"], one["resumed_from_step"]) for one in trainings] == [(steps[0], None), (steps[1], 20)]
    assert (folder / names[0] / "model.safetensors").stat().st_mtime < flag.stat().st_mtime


def test_one_backbone_for_all_aspects(tmp_path: Path, corpus: Upstream, bert: str) -> None:
    """And for all of them together."""
    settings = sections(base_model=bert, kind="shared", unified=True, **ALL | {"epochs": 8})
    result = run_stage(STAGE, tmp_path, upstream=corpus, **settings)
    check_learned(tmp_path, result, LABELS)
    assert isinstance(result.output, ProxiesOutput)
    assert result.output.models == [RewardModel("proxies-test/model", LABELS)]
    assert result.output.length_penalty == dict.fromkeys(LABELS, 0.001)
    assert {path.name for path in (tmp_path / "proxies-test").iterdir()} == {done.DONE, "model"}
    check_agreement(result)
    check_unified(tmp_path, result)
    aspects = result.metrics["aspects"].values()
    assert all(-1 <= facts["length_correlation"]["before"] <= 1 for facts in aspects)
    draws = 3 * math.ceil(sum(facts["train_pairs"] for facts in aspects) / 3)  # as many of each
    assert result.metrics["trainings"]["model"]["steps"] == 8 * draws // 8  # those of the proxy, with two workers
    assert result.metrics["without_baseline"] == []


def check_agreement(result: StageResult) -> None:
    agreement = [result.metrics["agreement"][label] for label in LABELS]
    assert list(result.metrics["agreement"]) == LABELS
    assert np.diag(agreement).tolist() == [1.0] * 3
    assert np.array_equal(agreement, np.transpose(agreement))
    assert np.abs(agreement).max() <= 1


def check_unified(root: Path, result: StageResult) -> None:
    """The model of all aspects has learned from, and is measured on, the pairs of all of them."""
    facts = result.metrics["aspects"]
    assert facts["unified"]["held_out_pairs"] == 12
    assert facts["unified"]["train_pairs"] <= sum(facts[aspect]["train_pairs"] for aspect in ASPECTS)
    assert np.mean(margins_of(root, result)["unified"] > 0) > 0.8


def test_too_few_pairs_reach_the_user_as_one_sentence(tmp_path: Path, bert: str) -> None:
    few = write_corpus(tmp_path, make_rows(6))
    with pytest.raises(UserError, match=r"^the aspect 'Kind Words' has 3 pairs, which leaves 3 of 3 prompts"):
        run_stage(STAGE, tmp_path, upstream=few, **sections(base_model=bert, **HEAD))


def test_a_tokenizer_that_does_not_know_the_words_is_refused(tmp_path: Path, corpus: Upstream) -> None:
    base = tiny_llama_lm(tmp_path / "base")
    tokenizer = base / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"people"', '"peoples"').replace('"time"', '"times"'))
    with pytest.raises(UserError, match=rf"the tokenizer of {base} does not know \d\d\.\d% of the tokens"):
        run_stage(STAGE, tmp_path, upstream=corpus, **sections(base_model=str(base), **ALL))


def test_more_workers_than_the_cluster_holds(tmp_path: Path, corpus: Upstream, bert: str) -> None:
    with pytest.raises(UserError, match=r"asks for 3 proxy worker.* holds 2; lower proxies.num_workers"):
        run_stage(STAGE, tmp_path, upstream=corpus, **sections(base_model=bert, **ALL | {"num_workers": 3}))
