"""Profiles of the fuzz suite, what its cases start from, and the count of cases at the end.

``PDRAY_FUZZ=long`` (``make fuzz``) takes many more cases, drawn anew each time,
and runs a few dozen damaged run folders
as a whole; without it the cases are the same in every run.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pdray.config import load_config
from pdray.lease import Lease
from tests.fuzz.case import TALLY, FakeRaySession
from tests.fuzz.world import World, make_world
from tests.whole_run import WholeRun

LONG = os.environ.get("PDRAY_FUZZ") == "long"
ANYTHING_GOES = list(HealthCheck)
settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, print_blob=True, suppress_health_check=ANYTHING_GOES
)
settings.register_profile("long", deadline=None, print_blob=True, suppress_health_check=ANYTHING_GOES)
settings.load_profile("long" if LONG else "ci")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of files that are gone a moment later stay out of the user's cache; nothing is left in the way of Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Models, corpus and config of a run that is accepted."""
    made = make_world(tmp_path_factory.mktemp("world"))
    load_config(str(made.config), [])  # else every case would be refused, and the suite would prove nothing
    return made


@pytest.fixture(scope="session")
def finished(whole_run: WholeRun) -> World:
    """A run that has ended, to be copied from."""
    assert whole_run.code == 0, whole_run.err
    return World(Path(whole_run.config).parent, whole_run.settings)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends where it would start Ray, and waits less long for the heartbeat of a driver elsewhere."""
    monkeypatch.setattr("pdray.runtime.ray_session", FakeRaySession)
    monkeypatch.setattr("pdray.store.Lease", functools.partial(Lease, ttl=0.1))
    monkeypatch.setattr("pdray.lease.SETTLE_SECONDS", {True: 0.0})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that relative paths are taken from."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases ended how, by their kind."""
    if not TALLY:
        return
    terminalreporter.section("fuzz cases")
    for kind in dict.fromkeys(kind for kind, _ in sorted(TALLY)):
        found = {outcome: count for (one, outcome), count in sorted(TALLY.items()) if one == kind}
        shown = ", ".join(f"{count:,} {outcome}" for outcome, count in found.items())
        terminalreporter.write_line(f"{kind:<14} {sum(found.values()):>7,}  {shown}")
    terminalreporter.write_line(f"{'all':<14} {TALLY.total():>7,}")
