"""The runs in ``configs/`` from corpus to policy, with small models of random weights and the architectures they name.

What they say of kinds, dtypes, lengths, ZeRO stage, attention and budget stays; GPUs and the size of a step do not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pdray.builders.build import build
from tests.builders import published
from tests.test_configs import CONFIGS, NAMES
from tests.tiny import tiny_llama_lm

ON_TWO_CORES = {
    "cluster.address": "null",
    "corpus.texts_per_shard": 64,
    "proxies.gpus_per_worker": 0,
    "proxies.num_workers": 1,
    "proxies.epochs": 1,
    "scores.gpus_per_actor": 0,
    "scores.cpu_cache_gib": 0.1,
    "scores.max_unknown_tokens": 1,  # the small tokenizer knows the words of other tests
    "scores.parity_rank": 0.01,  # rewards of random weights lie closer together than bfloat16 tells apart
    "scores.parity_spread": 100,
    "alignment.gpus_per_worker": 0,
    "alignment.num_workers": 2,
    "alignment.min_workers": "null",
    "alignment.batch_size": 1,
    "alignment.pairs_per_step": 4,
    "alignment.max_steps": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_ready_config_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    name = "helpsteer2" if path.stem.startswith("helpsteer2") else "ultrafeedback"
    rated = [
        published.helpsteer(f"q{i}", text, i % 5, 1, j, 2 - j, j) for i in range(120) for j, text in enumerate("ab")
    ]
    rows = rated if name == "helpsteer2" else published.ultrafeedback(120)
    build(name, str(tmp_path / name), [published.write_lines(tmp_path / f"{name}.jsonl", rows)])
    llama = tiny_llama_lm(tmp_path / "llama", max_positions=131_072)
    settings = ON_TWO_CORES | {
        "run": tmp_path / "run",
        "corpus.path": tmp_path / name,
        "proxies.base_model": llama,
        "alignment.policy": llama,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "pdray", "run", str(path), *words], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    told = subprocess.run(
        [sys.executable, "-m", "pdray", "show", str(tmp_path / "run"), "--json"], capture_output=True, check=True
    )
    stages = json.loads(told.stdout)["stages"]
    assert {stages[one]["status"] for one in ("corpus", "proxies", "scores", "selection", "alignment")} == {"complete"}
    assert (stages["scores"]["engine"], stages["scores"]["dtype"]) == ("vllm", "bfloat16")
    assert (stages["alignment"]["engine"], stages["alignment"]["zero_stage"]) == ("DeepSpeedEngine", 3)
    assert stages["alignment"]["steps"] == 2
