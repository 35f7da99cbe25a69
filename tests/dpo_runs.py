"""Real trainings in one group of Ray Train workers, and what they left: for tests of the alignment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from pdray.alignment import checkpoints
from pdray.alignment.worker import TrainingJob
from pdray.errors import UserError
from pdray.shards import ShardedFolder
from tests import dpo_case

PAIRS = 42  # 4 held out, 38 to train on: the last step of an epoch takes 2 pairs instead of 4


def copy_checkpoint(source: Path, folder: Path, step: int) -> Path:
    """A stage folder whose training was interrupted after a checkpoint of another."""
    target = folder / "checkpoints" / f"checkpoint-{step}"
    shutil.copytree(source / "checkpoints" / target.name, target)
    return target


def interrupted(name: str, folder: Path) -> None:
    """The folders of trainings that go on from what an earlier one of the same worker group left."""
    import torch.distributed as dist

    if dist.get_rank() == 0 and name == "lora again":
        copy_checkpoint(folder.parent / "lora", folder, 4)
    if dist.get_rank() == 0 and name == "dfpo again":
        copy_checkpoint(folder.parent / "dfpo2", folder, 2)
    if dist.get_rank() == 0 and name == "poisoned":
        poison(copy_checkpoint(folder.parent / "zero2", folder, 8), folder.parent / "created")
    dist.barrier()


def poison(checkpoint: Path, created: Path) -> None:
    """Have a file created when DeepSpeed reads what it must unpickle."""
    import torch

    (file, *_) = checkpoint.rglob("*optim_states.pt")
    torch.save({**torch.load(file, map_location="cpu"), "poison": Poison(created)}, file)


class Poison:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.file), "w")


def make_job(
    root: Path, name: str, selection: ShardedFolder, policy: Path, run: str = "run", zero: Any = None, **options: Any
) -> TrainingJob:
    overrides = {"zero_optimization": zero} if zero else {}
    settings = dpo_case.alignment(policy, deepspeed=overrides, **options)
    return dpo_case.training_job(root / run, root / name, selection, settings)


def train_all(jobs: dict[str, TrainingJob], selection: ShardedFolder, workers: int) -> dict[str, str]:
    from ray import cloudpickle
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # The workers do not see the tests' folder.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cloudpickle.register_pickle_by_value(dpo_case)
    result = TorchTrainer(
        train_one_by_one,
        train_loop_config={"jobs": jobs, "selection": selection},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
    ).fit()
    errors: dict[str, str] = result.return_value
    return errors


def train_one_by_one(loop: dict[str, Any]) -> dict[str, str]:
    from pdray.alignment.worker import train_worker

    errors = {}
    for name, job in loop["jobs"].items():
        interrupted(name, job.folder)
        with plain_ddp() if name == "ddp" else fresh_accelerate():
            try:
                train_with_trl(job, loop["selection"]) if name == "trl" else train_worker(job)
            except UserError as error:
                errors[name] = str(error)
    return errors


def train_with_trl(job: TrainingJob, selection: ShardedFolder) -> None:
    """TRL's own tokenising and a reference model beside the policy, on the same pairs in the same order."""
    from datasets import Dataset
    from trl import DPOTrainer

    from pdray.alignment import data
    from pdray.alignment.inputs import policy_tokenizer
    from pdray.alignment.worker import dpo_config, prepare_worker
    from pdray.schema import KEPT

    prepare_worker(job.alignment)
    args = dpo_config(job)
    args.precompute_ref_log_probs, args.max_length = False, job.alignment.max_tokens
    texts = pa.concat_tables([selection.read(KEPT, shard) for shard in range(selection.num_shards)])
    texts = texts.take(data.read_order(job.pairs)["row"]).select(["prompt", "chosen", "rejected"])
    trainer = DPOTrainer(
        model=job.alignment.policy,
        args=args,
        processing_class=policy_tokenizer(job.alignment.policy),
        train_dataset=Dataset(texts.slice(data.num_held_out(PAIRS, job.alignment)).replace_schema_metadata(None)),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        checkpoints.write_history(job.folder, trainer.state.log_history)


def fresh_accelerate() -> Any:
    """Accelerate and Transformers as a new process finds them."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()  # of the training before, which this process would not have had
    return contextlib.nullcontext()


def plain_ddp() -> Any:
    """A trainer that lost its DeepSpeed configuration."""
    from unittest import mock

    from trl import DPOConfig

    def careless(job: TrainingJob, universal: bool) -> DPOConfig:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"
        return DPOConfig(
            output_dir=str(job.folder / "checkpoints"),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=1,
            max_length=None,
            precompute_ref_log_probs=True,
            report_to=[],
        )

    fresh_accelerate()
    return mock.patch("pdray.alignment.worker.dpo_config", careless)


def read_losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_entries(folder) if "loss" in entry]


def read_entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()]


def read_facts(folder: Path) -> dict[str, Any]:
    facts = checkpoints.read_mark(checkpoints.finished(folder))
    assert facts is not None
    return facts


def read_weights(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
