"""The run that is disturbed: its inputs, its drivers, and what is compared afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pdray.demo.models import build_models
from pdray.demo.words import ASPECTS
from pdray.demo.world import make_pairs
from pdray.shards import MARKERS
from pdray.storage import StoragePath

STAGES = ("corpus", "proxies", "scores", "selection", "alignment")
TEXTS_PER_SHARD = 40
READY, SHORT, TRAINED, VLLM = "ready", "short", "trained", "vllm"
WAIT_SECONDS = 1800.0  # for a moment in a run; the run's own end comes first


def write_inputs(folder: Path, pairs: int) -> None:
    """A corpus, tiny models, and a config for each kind of run.

    ``ready`` scores with Transformers by a ready model of four labels and aligns; ``short`` is the same without the
    alignment, ``vllm`` that with vLLM; ``trained`` fits a head on a frozen backbone first.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = make_pairs(pairs)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row[name] for row in rows for name in ("prompt", "chosen", "rejected")]
    build_models(texts, folder / "base", folder / "policy")
    torch.manual_seed(1)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=len(ASPECTS))
    classifier.score.weight.data.normal_()
    classifier.save_pretrained(folder / "classifier")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "classifier")
    labels = {aspect: number for number, aspect in enumerate(ASPECTS)}
    ready: dict[str, Any] = {
        "run": "set on the command line",
        "corpus": {"path": str(corpus), "texts_per_shard": TEXTS_PER_SHARD},
        "proxies": {"models": {"path": str(folder / "classifier"), "labels": labels}},
        "scores": {"engine": "transformers", "max_tokens": 128, "cpus_per_actor": 1, "parity_rows": 8},
        "selection": {"budget": 0.3},
    }
    trained = ready | {
        "proxies": {
            "base_model": str(folder / "base"),
            "train": "head",
            "reading": "together",
            "length_baseline": False,
        }
    }
    vllm = ready | {"scores": ready["scores"] | {"engine": "vllm", "cpu_cache_gib": 0.1}}
    short = dict(ready)
    ready["alignment"] = {
        "policy": str(folder / "policy"),
        "max_tokens": 128,
        "max_steps": 6,
        "save_steps": 1,
        "batch_size": 4,
        "pairs_per_step": 8,
        "cpus_per_worker": 0.5,
    }
    for name, settings in ((READY, ready), (SHORT, short), (TRAINED, trained), (VLLM, vllm)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


@dataclass
class Driver:
    """A ``pdray`` command that runs.

    Attributes:
        process: itself.
        log: what it prints.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @staticmethod
    def start(words: list[str], log: Path, environment: dict[str, str]) -> Driver:
        """Run ``python -m pdray WORDS``."""
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pdray", *words],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        return Driver(process, log)

    def end(self, seconds: float) -> int:
        """Its exit code.

        Raises:
            AssertionError: it hangs; it is killed.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {seconds:.0f} s: {self.said()[-800:]}") from None

    def said(self) -> str:
        """All that was printed."""
        return self.log.read_text(errors="replace")


def stage_folder(run: StoragePath, stage: str) -> StoragePath | None:
    """The folder of a stage, None before there is one."""
    names = [name for name in _folders(run) if name.startswith(f"{stage}-")]
    assert len(names) < 2, f"{run} has several folders of {stage}"
    return run / names[0] if names else None


def _folders(run: StoragePath) -> list[str]:
    if run.is_local:
        return run.folders()
    return sorted({name.partition("/")[0] for name in run.sizes(recursive=True) if "/" in name})


def markers(run: StoragePath, stage: str) -> dict[str, int]:
    """Name of each marker of a stage and when it was written, in nanoseconds."""
    folder = stage_folder(run, stage)
    if folder is None:
        return {}
    names = [name for name in (folder / MARKERS).sizes() if name.endswith(".json") and not name.startswith(".")]
    return {name: (folder / MARKERS / name).info().mtime_ns for name in names}


def manifest(run: StoragePath, stage: str) -> dict[str, Any]:
    """The manifest of a finished stage."""
    folder = stage_folder(run, stage)
    assert folder is not None, f"{run} has no {stage}"
    found: dict[str, Any] = (folder / "manifest.json").read_json()
    return found


def kept(run: StoragePath) -> tuple[str, str]:
    """The digest of the kept ids, and one of names and bytes of the kept shards."""
    folder = stage_folder(run, "selection")
    assert folder is not None, f"{run} has no selection"
    hasher = hashlib.sha256()
    for name in sorted((folder / "kept").sizes()):
        hasher.update(name.encode() + (folder / "kept" / name).read_bytes())
    return str(manifest(run, "selection")["metrics"]["ids_digest"]), hasher.hexdigest()


def copy_before(source: Path, target: Path, stage: str) -> None:
    """A run folder that has come to a stage: what stands before it, from a finished run."""
    target.mkdir(mode=0o700)
    for before in STAGES[: STAGES.index(stage)]:
        for folder in source.glob(f"{before}-*"):
            shutil.copytree(folder, target / folder.name)


def wait_for(what: str, found: Any, driver: Driver, seconds: float = WAIT_SECONDS) -> Any:
    """Ask until there is an answer.

    Raises:
        AssertionError: the driver ended, or time is up.
    """
    end = time.monotonic() + seconds
    while not (answer := found()):
        code = driver.process.poll()
        assert code is None, f"the run ended with {code} before {what}: {driver.said()[-800:]}"
        assert time.monotonic() < end, f"no {what} within {seconds:.0f} s"
        time.sleep(0.05)
    return answer
