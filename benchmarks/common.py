"""What every benchmark result states: machine, versions, commit, configuration, date."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from pdray.storage import StoragePath
from pdray.store import package_versions


def machine() -> dict[str, Any]:
    """CPU model, cores that this process may use, memory in GiB, GPUs, kernel and Python."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def write_result(path: str | Path, name: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a result file.

    Args:
        path: JSON file; its folder is made.
        name: the question that the benchmark answers.
        config: every setting that decides the figures, without machine-absolute paths.
        rows: one mapping per contender or stage.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": package_versions(),
        "commit": commit(),
        "config": config,
        "rows": rows,
    }
    StoragePath(str(path.resolve())).write_json(result)


def commit() -> str | None:
    """The commit that this code stands at, with a ``+`` where files of it are changed; None outside of a checkout."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=10", "--dirty=+"]
    with contextlib.suppress(OSError):
        done = subprocess.run(words, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def load_average() -> float:
    """Runnable processes over the last minute: above the number of cores, a figure was disturbed."""
    return round(os.getloadavg()[0], 2)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _gpus() -> list[str]:
    folder = Path("/proc/driver/nvidia/gpus")
    if not folder.is_dir():
        return []
    texts = [(gpu / "information").read_text(encoding="utf-8") for gpu in sorted(folder.iterdir())]
    return [text.partition("Model:")[2].partition("\n")[0].strip() for text in texts]
