"""What goes to a cluster beside the config, and a log that is followed through bad connections; no Ray is started."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pdray
from pdray.cli import main
from pdray.console import Console
from pdray.errors import UserError
from pdray.submission import jobs, submit
from pdray.submission.shipment import Shipment
from tests.test_submission import FakeClient, details


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working folder."""
    (tmp_path / "pdray").mkdir()
    (tmp_path / "pdray" / "__init__.py").touch()
    return tmp_path


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_nothing_is_asked_for_that_was_not_given(tmp_path: Path) -> None:
    assert Shipment().words(tmp_path) == {}


def test_a_folder_is_the_working_folder_of_the_job(project: Path) -> None:
    environment = Shipment(str(project)).words(project)["runtime_env"]
    assert environment == {"working_dir": str(project), "excludes": ["runs"]}


def test_a_wheel_is_installed_beside_what_else_is_asked_for(tmp_path: Path) -> None:
    """Under a name that another build of the same version does not have."""
    wheel = write(tmp_path / "pdray-0.1.0-py3-none-any.whl", "one build")
    given = write(tmp_path / "env.yaml", "py_modules: [s3://bucket/plugin.whl]\nenv_vars: {A: b}\n")
    words = Shipment(wheel, given, driver_cpus=2, driver_memory=1.5).words(tmp_path)
    other, shipped = words["runtime_env"].pop("py_modules")
    assert other == "s3://bucket/plugin.whl"
    assert Path(shipped).read_text() == "one build" and Path(shipped) != Path(wheel)
    assert re.fullmatch(r"pdray-0\.1\.0-0[0-9a-f]{12}-py3-none-any\.whl", Path(shipped).name)
    assert words == {
        "runtime_env": {"env_vars": {"A": "b"}},
        "entrypoint_num_cpus": 2,
        "entrypoint_memory": 1_610_612_736,
    }
    write(tmp_path / "pdray-0.1.0-py3-none-any.whl", "another build")
    assert Shipment(wheel).words(tmp_path)["runtime_env"]["py_modules"] != [shipped]


@pytest.mark.parametrize(
    ("shipment", "sentence"),
    [
        (Shipment("/nowhere"), r"--project is /nowhere, but has to be a wheel .* or a folder that holds the package"),
        (Shipment("/nowhere/pdray.whl"), "--project is /nowhere/pdray.whl, but"),
        (Shipment(runtime_env="/nowhere.yaml"), "--runtime-env /nowhere.yaml cannot be read"),
        (Shipment(driver_cpus=-1), "--driver-cpus is -1, but has to be a number, 0 or more"),
        (Shipment(driver_memory=float("nan")), "--driver-memory is nan"),
    ],
)
def test_what_cannot_be_shipped_is_named(tmp_path: Path, shipment: Shipment, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        shipment.words(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- pip\n", "has to hold settings such as pip and env_vars"),
        ("pip: [\n", "cannot be read as YAML"),
        ("excludes: 5\n", "excludes has to be a list"),
        ("working_dir: s3://bucket/code.zip\n", "names a working_dir as well; leave one of the two out"),
    ],
)
def test_a_runtime_environment_that_is_none(project: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Shipment(str(project), write(project / "env.yaml", text)).words(project)


def test_submitted_from_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Path) -> None:
    """A mapping is enough; the job that comes back knows its name and where it runs."""
    (tmp_path / "base").mkdir()
    for name in ("p.jsonl", "base/config.json"):
        (tmp_path / name).touch()
    taken: list[dict[str, Any]] = []
    client = SimpleNamespace(submit_job=lambda **words: taken.append(words))
    monkeypatch.setattr(submit, "connect", lambda address: (client, address))
    config = {
        "run": str(tmp_path / "run"),
        "corpus": {"path": str(tmp_path / "p.jsonl")},
        "proxies": {"base_model": str(tmp_path / "base")},
        "cluster": {"labels": {"pool": "team-a"}},
    }
    job = pdray.submit(config, "http://head:8265", ["seed=7"], pdray.Shipment(str(project), driver_cpus=1))
    (words,) = taken
    assert (job.name, job.address) == (words["submission_id"], "http://head:8265")
    assert words["runtime_env"]["working_dir"] == str(project) and words["entrypoint_num_cpus"] == 1
    assert words["entrypoint_label_selector"] == {"pool": "team-a"}, "what it reserves is on the run's nodes"
    written = Path(words["entrypoint"].removeprefix("python -m pdray run "))
    assert written.parent == tmp_path / "run" / "submitted" and "seed: 7\n" in written.read_text()
    pdray.submit(config, "http://head:8265")
    assert "entrypoint_label_selector" not in taken[1], "a driver that reserves nothing starts on the head"
    pdray.submit(config, "http://head:8265", until="selection", wait=900)
    assert taken[2]["entrypoint"].endswith(".yaml --until selection --wait 900")


def test_the_command_line_says_what_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(submit, "submit_and_tell", lambda *words, **more: taken.append((*words, more)) or 0)
    words = ["submit", "run.yaml", "--address", "http://head:8265", "--detach", "--until", "selection", "--wait", "9"]
    words += ["--project", ".", "--runtime-env", "env.yaml", "--driver-cpus", "2", "--driver-memory", "16"]
    assert main(words) == 0
    told = {"until": "selection", "wait": 9.0}
    assert taken == [("run.yaml", [], "http://head:8265", False, Shipment(".", "env.yaml", 2.0, 16.0), told)]


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "run.yaml", "--address", "http://head:8265", "--follow", "--detach"],
        ["run", "run.yaml", "--wait", "-1"],
        ["run", "run.yaml", "--wait", "soon"],
    ],
)
def test_words_that_do_not_go_together(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_a_connection_that_breaks_often_but_goes_on_is_followed_to_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tries count from the last word that came through: a long job may lose its connection any number of times."""
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    chunks = [f"{number}\n" for number in range(3 * jobs.TRIES)]

    class Breaking(FakeClient):
        sent = 0

        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            self.sent += 1
            for chunk in chunks[: self.sent]:
                yield chunk
            if self.sent < len(chunks):
                raise RuntimeError("connection lost")

    assert jobs.follow(Breaking([]), "http://head:8265", "job", Console()) == 0
    assert capsys.readouterr().out == "".join(chunks)


def test_a_log_that_cannot_be_had_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    assert jobs.follow(FakeClient(["a\n"], breaks=99), "http://head:8265", "job", Console()) == 0
    assert capsys.readouterr().out == "a\nthe log of job cannot be read any more; waiting for the job to end\n"


def test_a_connection_that_is_dead_and_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a silence the cluster is asked; while the job runs its log is taken up where it stood."""
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "SILENT_SECONDS", 0.05)
    asked = []

    class Silent(FakeClient):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            yield "first\n"
            if len(asked) > 1:
                yield "second\n"
            await asyncio.sleep(60)

        def get_job_info(self, job_id: str) -> SimpleNamespace:
            asked.append(job_id)
            return details("RUNNING" if len(asked) < 4 else "SUCCEEDED", 0)

    assert jobs.follow(Silent([]), "http://head:8265", "job", Console()) == 0
    assert capsys.readouterr().out == "first\nsecond\n"


def test_a_log_that_ends_before_its_job_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever cuts the link closes it in good order, again and again; it is said once for each silence."""
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    asked = []

    class Cut(FakeClient):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            yield "first\n"
            if len(asked) > 2:
                yield "second\n"

        def get_job_info(self, job_id: str) -> SimpleNamespace:
            asked.append(job_id)
            return details("RUNNING" if len(asked) < 4 else "SUCCEEDED", 0)

    assert jobs.follow(Cut([]), "http://head:8265", "job", Console()) == 0
    told = "the log of job ended and the job goes on; asking for more of it\n"
    assert capsys.readouterr().out == f"first\n{told}second\n"
