"""Packages beside torch that were built for another: found before Transformers fails with them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pdray.demo import run_demo
from pdray.dryrun import dry_run
from pdray.errors import UserError
from pdray.models.torch_builds import BESIDE_TORCH, check_torch_builds
from pdray.pipeline import run_pipeline

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts packages before those that are installed, here and in processes that are started: name -> version, code."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    check_torch_builds.cache_clear()

    def add(**packages: tuple[str, str]) -> None:
        for name, (version, code) in packages.items():
            (site / f"{name}-{version}.dist-info").mkdir(parents=True)
            (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
            (site / f"{name}.py").write_text(code)

    return add


BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


def test_those_that_do_not_import_are_named_with_the_cure(install: Install) -> None:
    install(
        torch=("2.13.0+cpu", ""), torchvision=("0.28.0", BROKEN), torchaudio=("2.11.1", ""), torchcodec=("1", BROKEN)
    )
    with pytest.raises(UserError) as refused:
        check_torch_builds()
    told = str(refused.value)
    assert told.startswith("torchvision 0.28.0, torchcodec 1 cannot be imported beside torch 2.13.0+cpu, ")
    cure = shlex.split(told.rpartition(": ")[2])
    assert cure == [sys.executable, "-m", "pip", "uninstall", "--yes", "torchvision", "torchcodec"]


def test_builds_with_the_label_of_torch_are_not_even_imported(install: Install) -> None:
    install(torch=("2.13.0+cpu", ""), **{name: ("1.0+cpu", BROKEN) for name in BESIDE_TORCH})
    check_torch_builds()


def test_a_package_that_imports_whatever_its_label_is_left_alone(install: Install) -> None:
    install(torch=("2.13.0+cu130", ""), torchvision=("0.28.0", ""))
    check_torch_builds()


def test_nothing_is_begun_with_them(
    install: Install, tmp_path: Path, small_run_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdray.config import load_config

    install(torch=("2.13.0+cpu", ""), torchvision=("0.28.0", BROKEN))
    for begin in (
        lambda: run_demo(str(tmp_path / "demo"), write_only=True),
        lambda: run_pipeline(load_config(small_run_config)),
        lambda: dry_run(str(small_run_config), []),
    ):
        with pytest.raises(UserError, match=r"torchvision 0\.28\.0 cannot be imported beside torch"):
            begin()
    assert not (tmp_path / "demo").exists()
    with pytest.raises(UserError) as refused:
        dry_run(str(small_run_config), ["proxies.base_model=none"])
    assert [sentence.split()[0] for sentence in refused.value.sentences] == ["proxies.base_model", "torchvision"]
