"""Starting a local Ray on a machine that is too busy for it at first."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from pdray.config import ClusterConfig
from pdray.errors import UserError
from pdray.runtime import session

HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
SLEEP = "import time; time.sleep(600)"


class FakeInit:
    """``ray.init`` on a machine where Ray's limit runs out so many times; leaves a process behind as Ray does.

    Args:
        failures: how many times.
    """

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.left_behind: list[psutil.Process] = []

    def __call__(self, **where: Any) -> None:
        given = where["runtime_env"]["env_vars"]
        assert HOOK not in given, "Ray refuses to see again what it wrote"
        given[HOOK] = "a key of its own"
        if len(self.left_behind) < self.failures:
            words = [sys.executable, "-c", SLEEP, f"--session-dir={where['_temp_dir']}/session_1"]
            process = psutil.Process(subprocess.Popen(words).pid)
            while process.cmdline() != words:  # it is still a copy of this one
                time.sleep(0.01)
            self.left_behind.append(process)
            raise Exception("The current node timed out during startup. This could happen because ...")


@pytest.fixture(autouse=True)
def another_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray that other tests of this process may share is not seen here, and lives on."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_start_that_takes_too_long_is_tried_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    init = FakeInit(failures)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(session, "tune_ray_data", lambda: None)
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        if failures < 3:
            with session.ray_session(ClusterConfig()):
                pass
        else:
            with pytest.raises(UserError, match="did not start within 30 seconds, 3 times over"):
                session.ray_session(ClusterConfig()).__enter__()
        assert len(init.left_behind) == failures
        _, alive = psutil.wait_procs(init.left_behind, timeout=10)
        assert not alive
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_second_ray_of_one_process_is_given_what_the_first_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", FakeInit(0))
    monkeypatch.setattr(session, "tune_ray_data", lambda: None)
    for _ in range(2):
        with session.ray_session(ClusterConfig()):
            pass


def test_a_variable_that_the_job_sets_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
    from ray.runtime_env.runtime_env import _merge_runtime_env

    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **words: given.update(words))
    monkeypatch.setattr(session, "tune_ray_data", lambda: None)
    monkeypatch.setattr(session, "check_answers", lambda address: None)
    of_job: dict[str, Any] = {"env_vars": {"MIMALLOC_PURGE_DELAY": "0", "HF_HOME": "/models"}}
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps({"runtime_env": of_job, "metadata": {}}))
    with session.ray_session(ClusterConfig(address="10.0.0.1:6379")):
        pass
    merged = _merge_runtime_env(of_job, given["runtime_env"])
    assert merged == {"env_vars": session.WORKER_ENV | of_job["env_vars"]}, "None is a conflict"


def test_any_other_error_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RuntimeError, match="something else"), session.ray_session(ClusterConfig()):
        pass
