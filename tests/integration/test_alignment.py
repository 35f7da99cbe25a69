"""Real DPO: TRL and DeepSpeed in two Ray Train workers, on a tiny Llama."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pdray.alignment import checkpoints, stage
from pdray.alignment.merge import merge_adapters
from pdray.hashing import hash64
from pdray.schema import AlignmentOutput
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from tests import dpo_case, tiny, trackers
from tests.dpo_runs import (
    PAIRS,
    copy_checkpoint,
    make_job,
    read_entries,
    read_facts,
    read_losses,
    read_weights,
    train_all,
)

STEPS = 12  # an epoch has 10, so that a resumed training crosses from one into the next
LORA: dict[str, Any] = {"lora": {"r": 4, "alpha": 8}, "max_steps": 6, "learning_rate": 1e-2}
DFPO: dict[str, Any] = {"loss": "dfpo", "max_steps": 4, "batch_size": 2}
ONE: dict[str, Any] = {"num_workers": 1}
OFFLOAD_OPTIMIZER = {"offload_optimizer": {"device": "cpu"}}
OFFLOAD_ALL = {**OFFLOAD_OPTIMIZER, "offload_param": {"device": "cpu"}}

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama_lm(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> ShardedFolder:
    return dpo_case.write_kept(tmp_path_factory.mktemp("selection"), PAIRS)


@pytest.fixture(scope="module")
def trained(policy: Path, selection: ShardedFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | str]:
    """Stage folder, or refusal, of several trainings: one worker group runs them all, since its start costs most."""
    root = tmp_path_factory.mktemp("trained")
    chat = dpo_case.write_kept(root / "chat", PAIRS, chat=True, longest=30)
    jobs = {
        "tracked": make_job(
            root, "tracked", selection, policy, report_to=trackers.installed(), run="run6", max_steps=6
        ),
        "trl": make_job(root, "trl", selection, policy, zero_stage=0, max_steps=STEPS),
        "zero0": make_job(root, "zero0", selection, policy, zero_stage=0, max_steps=STEPS, save_steps=4),
        "zero2": make_job(root, "zero2", selection, policy, zero_stage=2, max_steps=STEPS, save_steps=4),
        "zero3": make_job(root, "zero3", selection, policy, zero_stage=3, max_steps=STEPS, save_steps=4, run="run3"),
        "lora": make_job(root, "lora", selection, policy, **LORA),
        "lora again": make_job(root, "lora again", selection, policy, **LORA),
        "poisoned": make_job(root, "poisoned", selection, policy, zero_stage=2, max_steps=STEPS),
        "offload2": make_job(root, "offload2", selection, policy, zero_stage=2, max_steps=3, zero=OFFLOAD_OPTIMIZER),
        "offload3": make_job(
            root, "offload3", selection, policy, zero_stage=3, max_steps=3, zero=OFFLOAD_ALL, run="run4"
        ),
        "bfloat16": make_job(
            root,
            "bfloat16",
            chat,
            policy,
            max_steps=2,
            max_tokens=40,
            dtype="bfloat16",
            batch_size=2,
            pairs_per_step=8,
            gradient_checkpointing=True,
        ),
        "dfpo2": make_job(root, "dfpo2", selection, policy, zero_stage=2, **DFPO),
        "dfpo3": make_job(root, "dfpo3", selection, policy, zero_stage=3, **DFPO),
        "dfpo again": make_job(root, "dfpo again", selection, policy, zero_stage=2, **DFPO),
        "ddp": make_job(root, "ddp", selection, policy, max_steps=1),
        "opt": make_job(
            root, "opt", selection, tiny.tiny_opt_lm(root / "opt-lm", layerdrop=1.0), max_steps=2, run="run5"
        ),
    }
    errors = train_all(jobs, selection, 2)
    return {name: errors.get(name) or job.folder for name, job in jobs.items()}


@pytest.fixture(scope="module")
def resized(trained: dict[str, Path], policy: Path, selection: ShardedFolder) -> dict[str, Path | str]:
    """Trainings of two workers that one worker goes on with."""
    root = trained["zero0"].parent
    jobs = {
        f"zero{stage}": make_job(
            root, f"one worker {stage}", selection, policy, zero_stage=stage, max_steps=STEPS, **ONE
        )
        for stage in (0, 2, 3)
    }
    jobs["lora"] = make_job(root, "one worker lora", selection, policy, **LORA, **ONE)
    for name, job in jobs.items():
        copy_checkpoint(trained[name], job.folder, 4 if name == "lora" else 8)
    errors = train_all(jobs, selection, 1)
    return {name: errors.get(name) or job.folder for name, job in jobs.items()}


def test_loss_curves_are_those_of_trl_with_a_reference_model(trained: dict[str, Path]) -> None:
    """TRL tokenises by itself and holds a second model; the other trainings do neither, ZeRO-2 has what ZeRO-0 kept."""
    curves = {name: read_losses(trained[name]) for name in ("trl", "zero0", "zero2", "zero3")}
    assert [len(curve) for curve in curves.values()] == [STEPS] * 4
    assert curves["zero0"] == pytest.approx(curves["trl"], abs=1e-5)
    assert curves["zero2"] == pytest.approx(curves["trl"], abs=1e-4)
    assert curves["zero3"] == pytest.approx(curves["trl"], abs=1e-4)
    assert curves["zero0"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert max(curves["zero0"]) - min(curves["zero0"]) > 0.02, "a policy that does not move proves nothing"


def test_the_reference_is_computed_once_for_a_run(trained: dict[str, Path]) -> None:
    first, later = ("zero0", "zero3"), ("zero2", "offload2")
    computed = {name: read_facts(trained[name])["reference_computed"] for name in (*first, *later)}
    assert computed == dict.fromkeys(first, PAIRS) | dict.fromkeys(later, 0)


def test_pairs_that_no_step_reads_need_no_reference(trained: dict[str, Path]) -> None:
    facts = read_facts(trained["offload3"])
    assert (facts["train_pairs"], facts["eval_pairs"]) == (3 * 4, 4)
    assert facts["reference_computed"] == 3 * 4 + 4


def test_zero3_and_plain_forward_passes_give_the_same_reference(
    trained: dict[str, Path], policy: Path, selection: ShardedFolder
) -> None:
    root = trained["zero0"].parent
    stores = [
        stage.reference_store(StoragePath(str(root / run)), dpo_case.alignment(policy)) for run in ("run", "run3")
    ]
    found = [store.read(store.sound_parts()) for store in stores]
    assert found[0][0].tolist() == found[1][0].tolist()
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-3)
    assert found[0][1].max() < -5, "log-probabilities of whole responses"


def test_zero3_writes_a_consolidated_policy(trained: dict[str, Path], policy: Path) -> None:
    import torch

    checkpoint = checkpoints.finished(trained["zero3"])
    assert checkpoint is not None
    weights = read_weights(checkpoints.publish_policy(checkpoint, trained["zero3"]))
    reference = read_weights(checkpoints.finished(trained["zero0"]))
    start = read_weights(policy)
    assert weights.keys() == start.keys()
    assert all(torch.allclose(weights[name], reference[name], atol=1e-4) for name in weights)
    assert any(not torch.allclose(weights[name], start[name], atol=1e-4) for name in weights)


def test_held_out_evaluation_is_logged(trained: dict[str, Path]) -> None:
    facts = checkpoints.read_mark(checkpoints.finished(trained["zero0"]))
    assert (facts["train_pairs"], facts["eval_pairs"]) == (38, 4)
    (evaluation,) = [entry for entry in read_entries(trained["zero0"]) if "eval_loss" in entry]
    assert evaluation["step"] == STEPS
    assert evaluation["eval_rewards/accuracies"] in (0, 0.25, 0.5, 0.75, 1)
    assert math.isfinite(evaluation["eval_loss"])


def test_dfpo_under_zero2_and_zero3_and_resumed(trained: dict[str, Path]) -> None:
    entries = {name: read_entries(trained[name]) for name in ("dfpo2", "dfpo3", "dfpo again")}
    first, *_, last = [entry for entry in entries["dfpo2"] if "loss" in entry]
    assert first["loss"] == pytest.approx(first["reference_loss"], abs=1e-5)
    assert 0 < first["reference_slope"] < 4
    assert abs(first["loss"] - math.log(2)) > 0.02, "pairs whose divergence is 0 prove nothing"
    assert abs(last["loss"] - last["reference_loss"]) > 0.02, "a policy that does not move proves nothing"
    assert read_losses(trained["dfpo3"]) == pytest.approx(read_losses(trained["dfpo2"]), abs=1e-4)
    assert read_facts(trained["dfpo again"])["resumed_from_step"] == 2
    assert read_losses(trained["dfpo again"]) == pytest.approx(read_losses(trained["dfpo2"]), abs=1e-5)
    assert [read_facts(trained[name])["reference_computed"] for name in entries] == [0] * 3, "whatever the loss"
    held_out = [dpo_case.divergence(pair_id) for pair_id in _held_out()]
    for name in entries:
        (evaluation,) = [entry for entry in entries[name] if "eval_loss" in entry]
        expected = sum(math.log1p(math.exp(-one)) for one in held_out) / len(held_out)
        assert evaluation["eval_reference_loss"] == pytest.approx(expected, abs=1e-6)
        assert evaluation["eval_loss"] != pytest.approx(expected, abs=1e-3)


def _held_out() -> list[str]:
    """Ids of the pairs that are held out: the first ones by their seeded hash."""
    ids = dpo_case.pair_ids(PAIRS)
    hashes = hash64(ids, salt="alignment 3")
    return sorted(ids, key=lambda one: hashes[ids.index(one)])[:4]


@pytest.mark.parametrize("name", ["offload2", "offload3"])
def test_cpu_offload_trains(trained: dict[str, Path | str], name: str) -> None:
    assert not isinstance(trained[name], str), trained[name]
    assert len(read_losses(trained[name])) == 3
    assert read_losses(trained[name])[0] == pytest.approx(math.log(2), abs=1e-6)
    assert read_losses(trained[name])[2] != pytest.approx(math.log(2), abs=1e-4)


def test_bfloat16_chat_with_gradient_checkpointing(trained: dict[str, Path]) -> None:
    facts = checkpoints.read_mark(checkpoints.finished(trained["bfloat16"]))
    assert read_losses(trained["bfloat16"])[0] == pytest.approx(math.log(2), abs=1e-3)
    assert facts["prompts_cut"] > 0
    assert facts["responses_cut"] > 0
    assert (facts["empty"], facts["train_pairs"], facts["eval_pairs"]) == (0, 2 * 8, 4)


def test_adapters_train_and_resume_and_merge(trained: dict[str, Path], policy: Path, tmp_path: Path) -> None:
    losses = read_losses(trained["lora"])
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6), "the reference is the base, adapters off"
    assert max(losses) - min(losses) > 0.02
    assert read_facts(trained["lora again"])["resumed_from_step"] == 4
    assert read_losses(trained["lora again"]) == pytest.approx(losses, abs=1e-5)
    assert read_facts(trained["lora"])["reference_computed"] == 0
    checkpoint = checkpoints.finished(trained["lora"])
    assert checkpoint is not None
    (tmp_path / "policy").mkdir()
    merge_adapters(checkpoint, tmp_path / "policy", str(policy), "float32")
    assert not list((tmp_path / "policy").glob("adapter*"))
    _check_merged(policy, checkpoint, tmp_path / "policy")


def _check_merged(base: Path, adapters: Path, merged: Path) -> None:
    """The merged model says what base and adapters say together, and not what the base says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, ids = AutoModelForCausalLM.from_pretrained(base), torch.arange(4, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
        expected = PeftModel.from_pretrained(model, adapters)(ids).logits
        found = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-2)
    AutoTokenizer.from_pretrained(merged)


def test_a_poisoned_checkpoint_is_refused_and_runs_nothing(trained: dict[str, Path | str]) -> None:
    assert "optim_states.pt holds io.open, which no checkpoint of this training does" in str(trained["poisoned"])
    assert not (Path(trained["zero0"]).parent / "created").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero0", "zero2", "zero3", "lora"])
def test_another_number_of_workers_goes_on(trained: dict[str, Path], resized: dict[str, Path | str], name: str) -> None:
    assert not isinstance(resized[name], str), resized[name]
    facts = read_facts(resized[name])
    assert (facts["num_workers"], facts["resumed_from_step"]) == (1, 4 if name == "lora" else 8)
    assert read_losses(resized[name]) == pytest.approx(read_losses(trained[name]), abs=1e-4)
    assert read_entries(resized[name])[-1]["step"] == read_entries(trained[name])[-1]["step"]


@pytest.mark.parametrize("name", list(trackers.READERS))
def test_trackers_write_into_the_run_folder(trained: dict[str, Path], name: str) -> None:
    """The loss of every step, from rank 0 alone."""
    if name not in trackers.installed():
        pytest.skip(f"{name} is not installed")
    (losses,) = trackers.READERS[name](trained["tracked"] / "trackers" / name, "pdray-alignment")
    assert [step for step, _ in losses] == list(range(1, 7))
    assert [loss for _, loss in losses] == pytest.approx(read_losses(trained["tracked"]), abs=1e-6)


def test_ddp_in_place_of_deepspeed_is_refused(trained: dict[str, str]) -> None:
    assert "asks for DeepSpeed ZeRO-2 but the trainer would run DistributedDataParallel" in trained["ddp"]


def test_first_loss_other_than_ln2_is_refused(trained: dict[str, str]) -> None:
    """OPT drops whole layers while training; the reference does not. The loss may fall on either side of ln 2."""
    words = r"first DPO loss is \d\.\d+ but must be ln 2 = 0\.693147 within 0\.001.*layerdrop"
    assert re.search(words, trained["opt"]), trained["opt"]


@pytest.mark.slow
def test_killed_driver_and_killed_worker_resume_with_the_workers_there_are(
    trained: dict[str, Path], policy: Path, selection: ShardedFolder, tmp_path: Path
) -> None:
    """The second attempt finds a cluster that holds one worker of the two."""
    settings = dpo_case.alignment(policy, zero_stage=2, max_steps=STEPS, min_workers=1, cpus_per_worker=1.5)
    ctx = dpo_case.context(tmp_path, selection, settings, PAIRS)
    folder = ctx.folder.local
    with _driver(tmp_path, selection, policy) as driver:
        _when(lambda: checkpoints.latest(folder) is not None, alive=driver)
        _kill_tree(driver)
    first = checkpoints.read_mark(checkpoints.latest(folder))["step"]
    assert first < STEPS, "killed too late to prove anything"

    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_worker, args=(folder, first, killed), daemon=True)
    killer.start()
    result = stage.run(ctx)
    killer.join(timeout=1)
    assert killed, "no worker was killed"

    assert result.metrics["resumed_from_step"] > first
    assert result.metrics["steps"] == STEPS
    assert [entry["step"] for entry in read_entries(folder) if "loss" in entry] == list(range(1, STEPS + 1))
    assert result.metrics["num_workers"] == 1
    assert 1 < result.metrics["worker_start_seconds"] < 240, "processes that import torch start no sooner"
    assert read_losses(folder) == pytest.approx(read_losses(trained["zero2"]), abs=1e-4)
    assert result.metrics["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (result.rows_in, result.rows_out, result.dropped) == (PAIRS, PAIRS, {})
    assert len(list((folder / "checkpoints").glob("checkpoint-*"))) == 2
    assert result.output == AlignmentOutput(f"{folder.name}/policy")
    read_weights(tmp_path / result.output.policy)

    start = time.monotonic()
    again = stage.run(ctx)
    assert again.metrics["resumed_from_step"] == STEPS
    assert again.metrics["worker_start_seconds"] is None
    assert time.monotonic() - start < 5, "a finished training was started again"


def _driver(root: Path, selection: ShardedFolder, policy: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from tests import dpo_case\n"
        "from pdray.shards import ShardedFolder; from pdray.storage import StoragePath\n"
        "from pdray.alignment import stage; from pdray.config import ClusterConfig\n"
        "from pdray.runtime import ray_session\n"
        "root, selection, policy = map(Path, sys.argv[1:])\n"
        "shards = ShardedFolder(StoragePath(str(selection)), 'test', 2)\n"
        f"settings = dpo_case.alignment(policy, zero_stage=2, max_steps={STEPS})\n"
        "with ray_session(ClusterConfig(num_cpus=2)):\n"
        f"    stage.run(dpo_case.context(root, shards, settings, {PAIRS}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(dpo_case.__file__).parents[1])}
    arguments = [sys.executable, "-c", code, str(root), str(selection.folder), str(policy)]
    return subprocess.Popen(arguments, env=environment)


def _kill_tree(driver: subprocess.Popen[bytes]) -> None:
    """As when the machine goes down: Ray's workers outlive their driver for seconds, and would train on."""
    processes = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _kill_a_worker(folder: Path, after_step: int, killed: list[int]) -> None:
    """Kill one training worker once a checkpoint newer than ``after_step`` is complete."""

    def newer() -> bool:
        checkpoint = checkpoints.latest(folder)
        return checkpoint is not None and checkpoints.read_mark(checkpoint)["step"] > after_step

    _when(newer)
    children = psutil.Process().children(recursive=True)
    workers = [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]
    workers[0].kill()
    killed.append(workers[0].pid)


def _when(condition: Callable[[], bool], alive: subprocess.Popen[bytes] | None = None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive.poll() is None, "the driver ended by itself"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
