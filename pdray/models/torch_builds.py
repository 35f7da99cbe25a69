"""Whether what vLLM brings beside torch fits it: where it was built for another torch, Transformers loads no model."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata

from pdray.errors import UserError

BESIDE_TORCH = ("torchvision", "torchaudio", "torchcodec")
LIMIT = 120.0  # seconds; importing torch on a machine that has much else to do
CODE = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        print(name)
"""


@cache
def check_torch_builds() -> None:
    """Refuse an environment with torchvision, torchaudio or torchcodec for another torch than the one that is there.

    Only where the build labels differ, as of ``2.13.0+cpu`` and ``0.28.0``, are they imported, in a process of its own.

    Raises:
        UserError: with the command that removes them.
    """
    torch, found = _version("torch"), {name: _version(name) for name in BESIDE_TORCH}
    if torch is None:
        return
    doubtful = [name for name, version in found.items() if version and _label(version) != _label(torch)]
    broken = _failing(doubtful) if doubtful else []
    if broken:
        named = ", ".join(f"{name} {found[name]}" for name in broken)
        cure = shlex.join([sys.executable, "-m", "pip", "uninstall", "--yes", *broken])
        raise UserError(
            f"{named} cannot be imported beside torch {torch}, for which they were not built, and Transformers loads "
            f"no model then; nothing here needs them, so remove them: {cure}"
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _label(version: str) -> str:
    return version.partition("+")[2]


def _failing(names: list[str]) -> list[str]:
    """Those that do not import in a fresh Python; none where that is not known in time."""
    try:
        done = subprocess.run([sys.executable, "-c", CODE, *names], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return []
    return [name for name in names if name in done.stdout.split()]
