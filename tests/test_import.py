"""What must stay light: the config, the rooms' doors and the command line's help."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import pdray

HEAVY = ("torch", "transformers", "trl", "vllm", "deepspeed")
ROOMS = ("corpus", "proxies", "scoring", "logprobs", "crossfit", "selection", "alignment", "evaluation")
HELP_SECONDS = 1.0


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of these packages a fresh Python has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_check_itself_sees_what_is_loaded() -> None:
    assert loaded_by("import json, yaml", ("yaml", "torch")) == ["yaml"]


def test_the_config_needs_no_cluster_and_no_model_library() -> None:
    assert loaded_by("import pdray.config", ("ray", *HEAVY)) == []


def test_the_package_alone_reads_nothing_else() -> None:
    assert loaded_by("import pdray", ("ray", "pyarrow", "numpy", "pydantic", "rich", *HEAVY)) == []
    assert loaded_by("import pdray; pdray.Run", ("ray", *HEAVY)) == []


def test_the_command_line_reads_little_before_it_knows_the_command() -> None:
    code = "from pdray.cli import build_parser; build_parser()"
    assert loaded_by(code, ("ray", "pyarrow", "numpy", "pydantic", "yaml", "argcomplete", "rich", *HEAVY)) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_stage_imports_models_only_when_it_runs(room: str) -> None:
    assert loaded_by(f"import pdray.{room}.stage", HEAVY) == []


def test_the_passes_of_the_selection_read_no_settings() -> None:
    """A worker imports them once for a second's work; pydantic and what it imports took half of that."""
    assert loaded_by("import pdray.selection.kept, pdray.runtime.tasks", ("ray", "pydantic", "yaml", *HEAVY)) == []


EVERY_MODULE = """
import importlib, pkgutil, sys
import pdray
names = [module.name for module in pkgutil.walk_packages(pdray.__path__, "pdray.") if module.name != "pdray.__main__"]
for name in names:
    importlib.import_module(name)
    if "ray" in sys.modules:
        sys.exit(f"{name} imports ray")
print(len(names))
"""


def test_no_module_imports_ray_before_the_session_is_configured() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path for path in Path(pdray.__file__).parent.rglob("*.py") if path.name != "__main__.py"]
    assert int(done.stdout) == len(files) - 1  # the package itself is not among its modules


def test_help_is_immediate() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "pdray", "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert "exit codes" in done.stdout
    assert min(seconds) < HELP_SECONDS
