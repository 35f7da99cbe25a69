"""Writes the demo's inputs once, runs the ordinary pipeline on them and compares what it trained."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from pdray.api import Run
from pdray.demo.apart import carried_out
from pdray.demo.comparison import compare
from pdray.demo.dpo import MAX_TOKENS, PAIRS_PER_STEP
from pdray.demo.sft import make_models
from pdray.demo.told import tell
from pdray.demo.world import make_pairs
from pdray.errors import UserError
from pdray.models.torch_builds import check_torch_builds
from pdray.paths import lacks_a_slash
from pdray.storage import StoragePath
from pdray.store import RunStore
from pdray.summary import summarise

SETTINGS: dict[str, Any] = {
    "proxies": {
        "kind": "shared",  # one model to train, and one that reads each text
        "epochs": 2,
        "learning_rate": 1e-3,
        "batch_size": 16,
        "num_workers": 2,
        "held_out": 0.2,
        "length_penalty": 0.01,
        "length_baseline": False,
    },
    "scores": {"engine": "vllm", "max_tokens": MAX_TOKENS, "cpu_cache_gib": 0.25},
    "selection": {"budget": 0.3},
    # β and rate are those of benchmarks/method, which chose them for training on all pairs.
    "alignment": {
        "beta": 2.0,
        "learning_rate": 2e-4,
        "max_steps": 100,
        "batch_size": PAIRS_PER_STEP // 2,
        "pairs_per_step": PAIRS_PER_STEP,
        "max_tokens": MAX_TOKENS,
        "zero_stage": 2,
        "num_workers": 2,
    },
}


def run_demo(folder: str, write_only: bool = False) -> None:
    """Run the demo in a folder; what an earlier run finished there is reused.

    Args:
        folder: the run folder; inputs go to ``inputs`` inside it.
        write_only: stop after writing the inputs and ``run.yaml``.

    Raises:
        UserError: as :meth:`pdray.Run.run`; or the inputs are an older demo's, or changed so that there is nothing to
            compare.
    """
    if odd := lacks_a_slash(folder):
        raise UserError(f"--folder: {odd}")
    root = Path(folder).absolute()
    config_file = root / "inputs" / "run.yaml"
    if not os.path.isfile(config_file):
        _write_inputs(root)
    if write_only:
        print(f"wrote {config_file}; run it with: pdray run {config_file}")
        return
    run = Run(config_file)
    alignment = run.config.alignment
    if alignment is None or alignment.max_steps is None:
        raise UserError(
            f"{config_file} has no alignment.max_steps, by which the demo compares trainings; it was changed, or an "
            f"older demo wrote it. Run it with: pdray run {config_file}, or name another --folder for a new demo"
        )
    stages = run.run()
    comparison = compare(root, stages, alignment)
    print("\n" + tell(summarise(root), comparison))


def _write_inputs(root: Path) -> None:
    check_torch_builds()
    inputs = root / "inputs"
    RunStore(root).make()
    StoragePath(str(inputs)).make_folder()
    pairs = make_pairs()
    corpus = inputs / "corpus.jsonl.gz"
    with gzip.GzipFile(corpus, "wb", mtime=0) as file:
        file.writelines(json.dumps(pair).encode() + b"\n" for pair in pairs)
    print("models     a backbone, and a policy that learns to say the chosen responses of other pairs", file=sys.stderr)
    list(carried_out(make_models, [inputs], root / "logs" / "models.log"))
    settings = {"run": str(root), "corpus": {"path": str(corpus)}, **SETTINGS}
    settings["proxies"] = {"base_model": str(inputs / "proxy-base"), **SETTINGS["proxies"]}
    settings["alignment"] = {"policy": str(inputs / "policy"), **SETTINGS["alignment"]}
    # Written last: its presence says that the inputs are complete.
    (inputs / "run.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
