"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdray.storage import StoragePath
from tests.s3 import S3Server, give_keys
from tests.s3 import s3_server as run_s3_server
from tests.whole_run import WholeRun, write_small_config
from tests.whole_run import whole_run as make_whole_run

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a hub, and a look-up without a network waits
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # some tests import ray before they start it through pdray


# Files by what they wait for, the longest first: what runs side by side then ends together.
LONG = ("tests/integration/test_alignment", "tests/integration", "tests/fuzz", "tests/engines")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, as they are otherwise."""

    def place(item: pytest.Item) -> int:
        return next((rank for rank, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG))

    items.sort(key=place)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Of a run whose inputs are there, but hold nothing."""
    for name in ("base", "policy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "pairs.parquet").write_bytes(b"")
    return {
        "run": str(tmp_path / "run"),
        "corpus": {"path": str(tmp_path / "pairs.parquet")},
        "proxies": {"base_model": str(tmp_path / "base")},
        "alignment": {"policy": str(tmp_path / "policy")},
    }


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A local Ray of two CPUs for the whole session, started as the commands start it."""
    from pdray.config import ClusterConfig
    from pdray.runtime import ray_session

    with ray_session(ClusterConfig(num_cpus=2)):
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket; its keys are in the environment from then on."""
    give_keys()
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    """An empty folder on the local disk, then one on object storage."""
    if request.param == "local":
        return StoragePath(str(tmp_path / "folder"))
    server: S3Server = request.getfixturevalue("s3_server")
    return StoragePath(server.uri(f"tests/{uuid.uuid4().hex}"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch with one thread, as in a task of one CPU: small products take longer on several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's plots are not drawn, which takes most of its time; what they show is still brought together."""
    monkeypatch.setattr("pdray.report.plots._drawn", lambda paint, height: "<svg ></svg>")


@pytest.fixture
def small_run_config(tmp_path: Path) -> Path:
    """The YAML of a whole small run: 120 pairs of two aspects, models built on the spot."""
    return write_small_config(tmp_path)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """A whole small run that has ended; the same for all processes of the suite."""
    root = tmp_path_factory.getbasetemp()
    return make_whole_run(root.parent if "PYTEST_XDIST_WORKER" in os.environ else root)
