"""The alignment stage: DPO on the kept pairs, from selection's folder to a policy folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pdray.alignment import checkpoints, data
from pdray.alignment.deepspeed import deepspeed_config
from pdray.config import AlignmentConfig, RunConfig, fingerprinted
from pdray.errors import UserError
from pdray.models.folder import check_model_folder
from pdray.schema import AlignmentOutput
from pdray.selection.divergence import num_kept
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.store import model_identity


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the trained policy."""
    alignment = _section(config)
    return {**fingerprinted(alignment), "seed": config.seed, "policy_files": model_identity(alignment.policy)}


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse settings that contradict each other, a policy that is not whole, and too few pairs once that is known.

    Raises:
        UserError: with the cure.
    """
    alignment = _section(config)
    deepspeed_config(alignment)
    check_model_folder("alignment.policy", alignment.policy, "policy")
    if upstream.corpus is not None:
        num_pairs = num_kept(config.selection.budget, upstream.corpus.pairs)
        data.check_enough(num_pairs - data.num_held_out(num_pairs, alignment), alignment)


def run(ctx: StageContext) -> StageResult:
    """Train, or continue what an interrupted attempt left in the folder, and publish the policy.

    Raises:
        UserError: too few pairs after TRL has left out those whose prompt fills ``max_tokens``, an engine other than
            DeepSpeed, a first loss that is not ln 2.
        RuntimeError: the workers failed more than ``max_failures`` times; the message holds theirs.
    """
    alignment = _section(ctx.config)
    assert ctx.upstream.selection is not None, "alignment reads the selection"
    num_pairs, folder = ctx.upstream.selection.kept, ctx.folder.local
    found = checkpoints.finished(folder)
    if found is None:
        _fit(ctx)
    checkpoint = checkpoints.finished(folder)
    assert checkpoint is not None, "Ray Train returned without a finished checkpoint"
    facts = checkpoints.read_mark(checkpoint) or {}
    if found:
        facts["resumed_from_step"] = facts["step"]
    history = checkpoints.read_history(checkpoint)
    checkpoints.write_history(folder, history)
    policy = f"{ctx.folder.name}/{checkpoints.publish_policy(checkpoint, folder).name}"
    return _result(num_pairs, facts, history, policy, alignment)


def _section(config: RunConfig) -> AlignmentConfig:
    assert config.alignment is not None, "the pipeline leaves the stage out where it is not configured"
    return config.alignment


def _fit(ctx: StageContext) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from pdray.alignment.worker import REFUSED, TrainingJob, train_worker
    from pdray.rendezvous import torch_config

    alignment = _section(ctx.config)
    _check_resources(ctx)
    folder = ctx.folder.local
    (folder / REFUSED).unlink(missing_ok=True)
    # Ray Train's own print bypasses the redirection that datasets hashes functions with, and floods the log.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    storage = folder / "ray"
    with ctx.progress.counting("DPO", unit="steps") as counter:
        job = TrainingJob(alignment, ctx.config.seed, ctx.upstream.shards("selection"), folder, counter)
        trainer = TorchTrainer(
            lambda: train_worker(job),
            torch_config=torch_config(),
            scaling_config=_scaling(alignment),
            run_config=ray.train.RunConfig(
                name=f"attempt-{time.time_ns()}",  # Ray Train would restore a run of the same name
                storage_path=str(storage),
                failure_config=ray.train.FailureConfig(max_failures=alignment.max_failures),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _reason(error, folder / REFUSED) from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _check_resources(ctx: StageContext) -> None:
    """Ray Train waits for ever for workers that do not fit; a cluster that grows by itself may still fit them."""
    from pdray.runtime import living_nodes, worker_places

    alignment, nodes = _section(ctx.config), living_nodes()
    places = worker_places(nodes, alignment.cpus_per_worker, alignment.gpus_per_worker)
    if places >= alignment.num_workers:
        return
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    text = (
        f"alignment asks for {alignment.num_workers} workers of {alignment.cpus_per_worker:g} CPUs and "
        f"{alignment.gpus_per_worker:g} GPUs each, but the Ray cluster ({len(nodes)} node(s), {cpus:g} CPUs, "
        f"{gpus:g} GPUs) holds {places}"
    )
    # A job is given the address of its cluster; only a Ray that was started for this run can never grow.
    if ctx.config.cluster.address is None and "RAY_ADDRESS" not in os.environ:
        raise UserError(f"{text}; lower alignment.cpus_per_worker or gpus_per_worker, or join a larger cluster")
    ctx.progress.note(f"{text}; waiting until the cluster has grown")


def _scaling(alignment: AlignmentConfig) -> Any:
    from ray.train import ScalingConfig

    resources = {"CPU": alignment.cpus_per_worker}
    if alignment.gpus_per_worker > 0:
        resources["GPU"] = alignment.gpus_per_worker
    return ScalingConfig(
        num_workers=alignment.num_workers,
        use_gpu=alignment.gpus_per_worker > 0,
        resources_per_worker=resources,
    )


def _reason(error: Exception, refusal: Path) -> Exception:
    """What a failed training says to the user: the worker's own words, without Ray Train's wrapping."""
    if refusal.exists():
        return UserError(json.loads(refusal.read_text(encoding="utf-8"))["message"])
    failures = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or failure
        return RuntimeError(f"DPO failed on worker {rank}: {type(cause).__name__}: {cause}")
    return RuntimeError(f"DPO failed: {error}")


def _result(
    num_pairs: int, facts: dict[str, Any], history: list[dict[str, Any]], policy: str, alignment: AlignmentConfig
) -> StageResult:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluation: dict[str, Any] = next((entry for entry in reversed(history) if "eval_loss" in entry), {})
    dropped = facts.pop("dropped")
    metrics = {
        **{key: value for key, value in facts.items() if key not in ("step", "max_steps")},
        "steps": facts["step"],
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "eval_loss": evaluation.get("eval_loss"),
        "eval_accuracy": evaluation.get("eval_rewards/accuracies"),
        "policy_path": policy,
    }
    notes = []
    if alignment.held_out and not facts["eval_pairs"]:
        notes.append(f"held_out {alignment.held_out} of {num_pairs} pairs is less than one per worker: no evaluation")
    if dropped:
        notes.append(f"{dropped} pairs dropped: their prompt alone fills max_tokens {alignment.max_tokens}")
    if facts["truncated"]:
        notes.append(f"{facts['truncated']} pairs cut at the end of a response to {alignment.max_tokens} tokens")
    return StageResult(
        output=AlignmentOutput(policy),
        rows_in=num_pairs,
        rows_out=num_pairs - dropped,
        dropped={"prompt fills max_tokens": dropped} if dropped else {},
        metrics=metrics,
        notes=notes,
    )


STAGE = Stage(
    name="alignment",
    version=2,
    upstream=("selection",),
    settings=settings,
    run=run,
    load=lambda value: AlignmentOutput(**value),
    shown=(
        "engine",
        "zero_stage",
        "num_workers",
        "steps",
        "first_loss",
        "last_loss",
        "eval_accuracy",
        "policy_path",
    ),
    check=check,
)
