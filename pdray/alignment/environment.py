"""What a training worker needs around it before the trainer is built: variables, threads, compiled operators.

``python -m pdray.alignment.environment`` compiles the CPU operators ahead of the first run, as ``make setup`` does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from pdray.alignment.deepspeed import offloads
from pdray.alignment.weights_only import load_weights_only
from pdray.config import AlignmentConfig
from pdray.errors import UserError


def prepare_worker(alignment: AlignmentConfig) -> None:
    """Set up this process for DeepSpeed under accelerate. Must run before either is imported.

    Raises:
        UserError: DeepSpeed has to compile an operator and there is no C++ compiler.
    """
    use_gpu = alignment.gpus_per_worker > 0
    os.environ["DS_ACCELERATOR"] = "cuda" if use_gpu else "cpu"
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # DeepSpeed's compiled helpers only dump compiler logs here
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(extensions_folder()))
    # ninja is installed beside this Python, which need not be on the PATH of whoever started Ray.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    import torch

    torch.set_num_threads(max(1, int(alignment.cpus_per_worker)))
    build_operators(operators(alignment))
    load_weights_only()


def operators(alignment: AlignmentConfig) -> list[str]:
    """Names of the DeepSpeed operators that this run compiles with the host's C++ compiler."""
    names = [] if alignment.gpus_per_worker > 0 else ["ShareMemCommBuilder"]
    if offloads(alignment.deepspeed.get("zero_optimization", {}), "offload_optimizer"):
        names.append("CPUAdamBuilder")
    return names


def extensions_folder() -> Path:
    """Where compiled operators are kept: one folder per environment, torch release and processor.

    DeepSpeed compiles for the processor it finds, and torch does not notice that a cached operator was made for
    another processor or another torch; a home that several machines share would hold the wrong one. What lies in
    another environment is another build to it: two that shared a folder would compile at every change from one to
    the other.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = platform.processor()
    kind = hashlib.sha256(f"{sys.prefix} {platform.machine()} {processor}".encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pdray" / "extensions" / f"torch-{metadata.version('torch')}-{kind}"


def build_operators(names: list[str]) -> None:
    """Compile and load operators, one process of the machine at a time.

    torch guards a build with a file that a killed build leaves behind, and then waits for it for ever. The
    kernel's lock ends with its holder, so whoever has it may remove such a file.

    Raises:
        UserError: there is no C++ compiler, or something that is no file stands in the place of the lock.
    """
    if not names:
        return
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"DeepSpeed compiles an operator for the CPU and finds no C++ compiler {compiler}; install one "
            "(apt-get install g++) or set CXX to yours"
        )
    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".pdray-lock"
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path} is no file; remove it and run again")
    from deepspeed.accelerator import get_accelerator

    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in folder.glob("*/lock"):
            stale.unlink()
        for name in names:
            get_accelerator().create_op_builder(name).load(verbose=False)


if __name__ == "__main__":
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    prepare_worker(AlignmentConfig(policy="none", deepspeed=offload))
