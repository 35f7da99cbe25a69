"""A whole small run, made once for every process of the suite: several tests look at it, or damage copies of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from tests.listeners import watch

LIMIT = 1800.0  # seconds, of a run that takes three minutes on an idle machine


@dataclass(frozen=True)
class WholeRun:
    """What ``pdray run`` did.

    Attributes:
        config: its YAML file.
        code: its exit code.
        out: what it printed.
        err: its progress and errors.
        listened: address and process of everything that it listened on.
    """

    config: str
    code: int
    out: str
    err: str
    listened: list[tuple[str, str]]

    @property
    def run(self) -> Path:
        """The run folder; to be copied before anything is done to it."""
        return Path(self.settings["run"])

    @property
    def settings(self) -> dict[str, Any]:
        """Of the config."""
        settings: dict[str, Any] = yaml.safe_load(Path(self.config).read_text())
        return settings


def write_small_config(folder: Path) -> Path:
    """The YAML of a whole small run: 120 pairs of two aspects, models built on the spot."""
    from pdray.demo.models import build_models
    from pdray.demo.words import ASPECTS
    from pdray.demo.world import make_pairs

    pairs = [pair for pair in make_pairs(num_pairs=240) if pair["aspect"] in ASPECTS[:2]]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    texts = [pair[name] for pair in pairs for name in ("prompt", "chosen", "rejected")]
    build_models(texts, folder / "proxy-base", folder / "policy")
    settings = {
        "run": str(folder / "run"),
        "corpus": {"path": str(corpus)},
        "proxies": {
            "base_model": str(folder / "proxy-base"),
            "learning_rate": 1e-3,
            "length_baseline": False,
        },
        "scores": {"engine": "transformers", "max_tokens": 128, "num_actors": 1},
        "alignment": {
            "policy": str(folder / "policy"),
            "max_tokens": 128,
            "max_steps": 2,
            "batch_size": 4,
            "pairs_per_step": 8,
        },
    }
    return write_yaml(folder / "run.yaml", settings)


def write_yaml(path: Path, settings: dict[str, Any]) -> Path:
    """A config file."""
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def whole_run(root: Path) -> WholeRun:
    """The run in a folder that all processes of the suite share; the first one that asks makes it.

    With a head on a frozen backbone and scored by vLLM, on a Ray of its own. Its end is only written down: whoever
    needs it to have succeeded says so.
    """
    with FileLock(root / "whole-run.lock"):
        folder, done = root / "whole-run", root / "whole-run.json"
        if not done.exists():
            folder.mkdir()
            config = write_small_config(folder)
            settings = yaml.safe_load(config.read_text())
            settings["cluster"] = {"num_cpus": 2}
            settings["corpus"]["texts_per_shard"] = 100
            # Of the pairs that no head is fitted to, the texts are left for the engine to score.
            settings["proxies"] |= {"train": "head", "reading": "together", "share": 0.8}
            settings["scores"] |= {"engine": "vllm", "cpu_cache_gib": 0.25}
            done.write_text(json.dumps(asdict(_watched(write_yaml(config, settings)))))
        return WholeRun(**json.loads(done.read_text()))


def _watched(config: Path) -> WholeRun:
    command = [sys.executable, "-m", "pdray", "run", str(config)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    files = [config.with_name(name) for name in ("out.txt", "err.txt")]
    with files[0].open("w") as out, files[1].open("w") as err:
        run = subprocess.Popen(command, stdout=out, stderr=err, env=environment, stdin=subprocess.DEVNULL)
        late = threading.Timer(LIMIT, run.kill)
        late.start()
        found = watch(run)
        late.cancel()
    return WholeRun(str(config), run.wait(), *(file.read_text() for file in files), sorted(found))
