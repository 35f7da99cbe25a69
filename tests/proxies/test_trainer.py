"""One model for several aspects: what a pair trains, and that one aspect alone is TRL's trainer."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pdray.config import LoraConfig, ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import launch
from pdray.proxies.adapters import adapted
from pdray.proxies.base import load_reward_model, load_tokenizer
from pdray.proxies.batches import training_order
from pdray.proxies.checkpoints import Checkpoints
from pdray.proxies.data import BASELINE, TRAIN, TablesJob
from pdray.proxies.done import read_done, read_margins
from pdray.proxies.launch import lanes_of, trainings_at_once
from pdray.proxies.pairs import AspectPairs
from pdray.proxies.training import TrainingJob, held_out_margins, reward_config, train_one, train_workers
from pdray.storage import StoragePath
from tests import trackers
from tests.tiny import tiny_encoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("base")))


def encoded_pairs(aspects: int, rows: int = 24) -> pa.Table:
    """Pairs of random tokens of :mod:`tests.tiny`, the aspects by turns, as a trainer's table."""
    draw = np.random.default_rng(0)
    texts = [[2, *draw.integers(8, 60, draw.integers(3, 9)).tolist(), 3] for _ in range(2 * rows)]
    return pa.table(
        {
            "chosen_ids": texts[:rows],
            "rejected_ids": texts[rows:],
            "margin": draw.normal(size=rows) / 10,
            "aspect": np.arange(rows) % aspects,
        }
    )


def training_job(root: Path, base: str, aspects: list[str], **settings: Any) -> TrainingJob:
    """A job with its tables; every pair is held out as well."""
    stage, table = StoragePath(str(root)), encoded_pairs(len(aspects))
    (stage / "train.parquet").write_table(table)
    names = pa.array([aspects[number] for number in table["aspect"].to_pylist()])
    held_out = table.drop_columns(["margin", "aspect"]).append_column("aspect", names)
    lengths = pa.array(np.zeros(len(table), np.int64))
    (stage / "held-out.parquet").write_table(held_out.append_column("length_difference", lengths))
    proxies = ProxiesConfig(base_model=base, batch_size=4, learning_rate=1e-3, **settings)
    tables = {TRAIN: stage / "train.parquet"}
    return TrainingJob(
        "model", aspects, tables, stage / "held-out.parquet", [len(table)] * len(aspects), len(table), stage, proxies, 0
    )


def make_trainer(job: TrainingJob, base: str, local: Path) -> Any:
    from datasets import Dataset

    from pdray.proxies.trainer import AspectTrainer

    tokenizer = load_tokenizer(base)
    return AspectTrainer(
        job.aspects,
        load_reward_model(base, tokenizer, 0, len(job.aspects)),
        args=reward_config(job, str(local), [], "model"),
        train_dataset=Dataset(job.tables[TRAIN].read_table()),
        processing_class=tokenizer,
    )


def test_a_pair_reaches_the_head_row_of_its_own_aspect_alone(tmp_path: Path, base: str) -> None:
    """Seen red with the mean of all logits in place of the pair's own."""
    job = training_job(tmp_path, base, ["a", "b", "c"])
    trainer = make_trainer(job, base, tmp_path / "local")
    model = trainer.model
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert next(iter(trainer.get_train_dataloader()))["aspect"].tolist() == [0, 1, 2, 0]
    rows = [row for row in job.tables[TRAIN].read_table().to_pylist() if row["aspect"] == 1]
    trainer.compute_loss(model, trainer.data_collator(rows)).backward()
    gradient = model.classifier.weight.grad
    assert not gradient[[0, 2]].any()
    assert gradient[1].abs().sum() > 0
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_the_loss_of_mixed_aspects_is_that_of_each_pair_under_its_own_label(tmp_path: Path, base: str) -> None:
    import torch

    job = training_job(tmp_path, base, ["a", "b", "c"])
    trainer = make_trainer(job, base, tmp_path / "local")
    trainer.model.eval()
    batch = trainer.data_collator(job.tables[TRAIN].read_table().to_pylist())
    with torch.no_grad():
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        chosen, rejected = (half[torch.arange(24), batch["aspect"]] for half in logits.chunk(2))
        expected = -torch.nn.functional.logsigmoid(chosen - rejected - batch["margin"]).mean()
        torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)


def test_one_aspect_is_trained_as_trl_trains_it(tmp_path: Path, base: str) -> None:
    from datasets import Dataset
    from safetensors.numpy import load_file
    from trl import RewardTrainer

    job = training_job(tmp_path, base, ["a"], epochs=1.5)
    trained = train_one(job, TRAIN, job.stage / "model")
    assert trained is not None
    assert (trained.steps, trained.margins.shape) == (9, (24, 1))
    table = job.tables[TRAIN].read_table()
    order = training_order(table["aspect"].to_numpy(), 1.5, 0)
    tokenizer = load_tokenizer(base)
    plain = RewardTrainer(
        load_reward_model(base, tokenizer, 0),
        args=reward_config(job, str(tmp_path / "plain"), [], "plain"),
        train_dataset=Dataset(table.drop_columns(["aspect"]).take(order)),
        processing_class=tokenizer,
    )
    plain.train()
    ours = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in plain.model.state_dict().items():
        np.testing.assert_array_equal(ours[name], weight.numpy(), err_msg=name)


def variables_after(jobs: list[TrainingJob]) -> set[str]:
    """Names of the environment's variables once these are trained."""
    for job in jobs:
        assert train_one(job, TRAIN, None) is not None
    return set(os.environ)


@pytest.mark.parametrize("name", list(trackers.READERS))
def test_trackers_get_a_run_of_each_training(tmp_path: Path, base: str, name: str) -> None:
    """Two in one process, the second of which must not go on in the run of the first."""
    if name not in trackers.installed():
        pytest.skip(f"{name} is not installed")
    job = training_job(tmp_path, base, ["a"], train="all", report_to=[name])
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # where TRL is not imported yet
        left = fresh.submit(variables_after, [job, replace(job, name="other")]).result()
    assert not left & {"TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"}
    curves = trackers.READERS[name](tmp_path / "trackers" / name, "pdray-proxies")
    assert [[step for step, _ in curve] for curve in curves] == [list(range(1, 7))] * 2
    assert all(0 < loss < 2 for curve in curves for _, loss in curve)


class FakeDeath(Exception):
    """A worker that is lost."""


class FakeDyingCounter:
    """Counts steps, and dies at one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def add(self, count: int) -> None:
        self.left -= count
        if self.left <= 0:
            raise FakeDeath


def test_a_lost_training_goes_on_from_its_last_checkpoint_and_makes_the_same_weights(tmp_path: Path, base: str) -> None:
    """Seen red without the checkpoint: it starts at step 0."""
    whole = training_job(tmp_path / "whole", base, ["a", "b"], save_steps=2)
    assert train_one(whole, TRAIN, whole.stage / "model") is not None
    job = training_job(tmp_path / "lost", base, ["a", "b"], save_steps=2)
    with pytest.raises(FakeDeath):
        train_one(job.counted_by(FakeDyingCounter(5)), TRAIN, job.stage / "model")
    assert not (job.stage / "model").exists()
    assert job.steps_done() == 4
    counter = FakeDyingCounter(100)
    again = train_one(job.counted_by(counter), TRAIN, job.stage / "model")
    assert again is not None
    assert (again.resumed_from, again.steps, 100 - counter.left) == (4, 6, 2)
    one, other = (path / "model" / "model.safetensors" for path in (tmp_path / "whole", tmp_path / "lost"))
    assert one.read_bytes() == other.read_bytes()


def separate_jobs(root: Path, base: str, **settings: Any) -> list[TrainingJob]:
    """A job for each of two aspects, in one stage folder; the baseline reads what the proxy reads."""
    both = training_job(root, base, ["a", "b"], save_steps=2, **settings)
    table, jobs = both.tables[TRAIN].read_table(), []
    for number, aspect in enumerate(both.aspects):
        own, path = table.filter(pc.equal(table["aspect"], number)), both.stage / f"{aspect}.parquet"
        path.write_table(own.set_column(3, "aspect", pa.array(np.zeros(len(own), np.int64))))
        tables = {BASELINE: path, TRAIN: path}
        jobs.append(replace(both, name=aspect, aspects=[aspect], tables=tables, train_pairs=[12], draws=12))
    return jobs


def left_by(job: TrainingJob) -> tuple[bytes, pa.Table, dict[str, Any]]:
    """Weights, margins and facts of a finished training, without its seconds and its resumption."""
    facts = read_done(job.stage, job.name)
    assert facts is not None
    told = {name: facts[name] for name in ("aspects", "steps")}
    return (job.stage / job.name / "model.safetensors").local.read_bytes(), read_margins(job.stage, job.name), told


def test_aspects_of_one_run_come_out_as_of_runs_of_their_own(tmp_path: Path, base: str) -> None:
    """Also where that run is lost in the second one, which alone goes on. Seen red with one folder of checkpoints."""
    alone = separate_jobs(tmp_path / "alone", base)
    for job in reversed(alone):  # another order: nothing passes from one training to the next
        train_workers([job])
    together = separate_jobs(tmp_path / "together", base)
    train_workers(together)
    lost = separate_jobs(tmp_path / "lost", base)
    with pytest.raises(FakeDeath):  # a takes 3 steps twice, so that b's proxy is lost in its last one
        train_workers([one.counted_by(counter) for counter in [FakeDyingCounter(12)] for one in lost])
    first = lost[0].stage / "a" / "model.safetensors"
    written = first.local.stat().st_mtime_ns
    train_workers(lost)
    assert first.local.stat().st_mtime_ns == written
    facts = [read_done(job.stage, job.name) for job in lost]
    assert [one["resumed_from_step"] for one in facts if one] == [None, 2]
    expected = [left_by(job) for job in alone]
    assert [left_by(job) for job in together] == expected
    assert [left_by(job) for job in lost] == expected
    assert expected[0][0] != expected[1][0]


def test_adapters_are_trained_resumed_and_merged(tmp_path: Path, base: str) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoModelForSequenceClassification

    lora = LoraConfig(r=2, alpha=4, target_modules=["query", "value"])
    job = training_job(tmp_path, base, ["a", "b"], lora=lora, save_steps=2)
    with pytest.raises(FakeDeath):
        train_one(job.counted_by(FakeDyingCounter(3)), TRAIN, job.stage / "model")
    trained = train_one(job, TRAIN, job.stage / "model")
    assert trained is not None
    assert (trained.resumed_from, trained.steps) == (2, 6)
    start = {
        name: value.numpy() for name, value in load_reward_model(base, load_tokenizer(base), 0, 2).state_dict().items()
    }
    saved = load_file(tmp_path / "model" / "model.safetensors")
    ranks = {
        name: np.linalg.matrix_rank(value - start[name], tol=1e-6) for name, value in saved.items() if value.ndim > 1
    }
    places = {name: rank for name, rank in ranks.items() if rank}
    adapters = {
        f"bert.encoder.layer.{layer}.attention.self.{part}.weight" for layer in (0, 1) for part in ("query", "value")
    }
    assert places.keys() == adapters | {"classifier.weight"}
    assert {places[name] for name in adapters} == {2}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "a", 1: "b"}
    np.testing.assert_allclose(held_out_margins(model, job.held_out, 0), trained.margins, atol=1e-5)


def test_modules_that_cannot_have_adapters_are_refused(tmp_path: Path, base: str) -> None:
    model = load_reward_model(base, load_tokenizer(base), 0)
    with pytest.raises(UserError, match=r"^proxies.lora.target_modules is 'q_proj', which peft refuses for a Bert"):
        adapted(model, LoraConfig(target_modules="q_proj"))


def test_a_checkpoint_counts_only_while_it_is_whole(folder: StoragePath, tmp_path: Path) -> None:
    checkpoints, local = Checkpoints(folder / "checkpoints"), tmp_path / "checkpoint-2"
    assert checkpoints.last_step() is None
    (local / "nested").mkdir(parents=True)
    (local / "model.safetensors").write_bytes(b"weights")
    (local / "nested" / "state").write_bytes(b"state")
    checkpoints.keep(local, 2)
    (folder / "checkpoints" / "4" / "files" / "model.safetensors").write_bytes(b"half")  # copied when the worker died
    assert checkpoints.last_step() == 2
    fetched = checkpoints.fetch(2, tmp_path / "scratch")
    assert (fetched / "nested" / "state").read_bytes() == b"state"
    (local / "model.safetensors").write_bytes(b"later")
    checkpoints.keep(local, 6)
    assert checkpoints.last_step() == 6
    assert not (folder / "checkpoints" / "2").sizes(recursive=True)
    (folder / "checkpoints" / "6" / "files" / "model.safetensors").write_bytes(b"damaged in part")
    assert checkpoints.last_step() is None


def test_baselines_are_trained_up_to_a_number_of_pairs(tmp_path: Path) -> None:
    def uses(**settings: Any) -> list[str]:
        members = [
            AspectPairs(name, count, pa.table({"x": range(count)}), pa.table({"x": []}))
            for name, count in (("a", 10), ("b", 30))
        ]
        settings = {"max_baseline_pairs": 30} | settings
        folder: Any = StoragePath(str(tmp_path))
        return TablesJob(members, folder, folder, ProxiesConfig(base_model="x", **settings), 0).uses

    assert uses() == [BASELINE, TRAIN]
    assert uses(max_baseline_pairs=29) == [TRAIN]
    assert uses(length_baseline=False) == [TRAIN]
    assert uses(length_penalty=0, balance_temperature=None) == [TRAIN]


def test_lanes_take_about_as_long_as_each_other(tmp_path: Path, base: str) -> None:
    job = training_job(tmp_path, base, ["a"])
    jobs = [replace(job, name=str(draws), draws=draws) for draws in (10, 40, 20, 30)]
    assert [[one.draws for one in lane] for lane in lanes_of(jobs, 2)] == [[40, 20], [30, 10]]
    assert len(lanes_of(jobs, 9)) == 4


@pytest.mark.parametrize(("holds", "may_come", "lanes"), [(5, False, 2), (1, False, 1), (0, False, 1), (2, True, 4)])
def test_an_autoscaler_is_asked_for_all_trainings_at_once(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch, holds: int, may_come: bool, lanes: int
) -> None:
    monkeypatch.setattr(launch, "find_places", lambda need, note: holds)
    monkeypatch.setattr(launch, "nodes_may_come", lambda: may_come)
    limit = trainings_at_once(ProxiesConfig(base_model="x", num_workers=2), pytest.fail)
    assert len(lanes_of([training_job(tmp_path, base, ["a"])] * 4, limit)) == lanes
