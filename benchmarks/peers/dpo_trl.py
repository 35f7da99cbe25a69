"""Plain TRL on two processes of one machine: DPOTrainer under accelerate, a model beside the policy as its reference.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m benchmarks.peers.dpo_trl --policy DIR …

On the CPU accelerate trains with DistributedDataParallel; it has no DeepSpeed there.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class StepClock(TrainerCallback):
    """Adds up the seconds of the steps."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.begin = 0, 0.0, 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begin = time.monotonic()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += time.monotonic() - self.begin
        self.steps += 1


def main() -> None:
    """Train and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--pairs", required=True, help="parquet files with prompt, chosen, rejected")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--accumulation", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clock = StepClock()
    trainer = DPOTrainer(
        model=args.policy,
        args=DPOConfig(
            output_dir=args.folder,
            use_cpu=True,
            bf16=False,
            max_length=args.max_tokens,
            learning_rate=args.learning_rate,
            max_steps=args.steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=args.accumulation,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        processing_class=AutoTokenizer.from_pretrained(args.policy),
        train_dataset=load_dataset("parquet", data_files=args.pairs, split="train").select_columns(
            ["prompt", "chosen", "rejected"]
        ),
        callbacks=[clock],
    )
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"step_seconds": round(clock.seconds / clock.steps, 2), "losses": losses}, file)


if __name__ == "__main__":
    main()
