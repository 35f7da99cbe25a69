"""Submission without a cluster: tokens, refusals, exit codes, a followed log; and what the script leaves alone."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from pdray.config import build_config, load_config
from pdray.console import Console
from pdray.errors import UserError
from pdray.submission import api, jobs, submit
from tests.s3 import S3Server

LOCAL = Path(__file__).parents[1] / "cluster" / "local.sh"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A head that answers every request with one status and keeps the headers it was sent."""
    seen = SimpleNamespace(status=200, headers=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.headers.append(self.headers)
            self.send_response(seen.status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        seen.address = f"http://127.0.0.1:{httpd.server_port}"
        yield seen
        httpd.shutdown()


class FakeClient:
    """Tails a log that breaks off as often as it is told to, then is deaf as often, then reports the job as ended."""

    def __init__(
        self, chunks: list[str], breaks: int = 0, error: type[BaseException] = RuntimeError, deaf: int = 0
    ) -> None:
        self.chunks, self.breaks, self.error, self.deaf = chunks, breaks, error, deaf

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for chunk in self.chunks:
            yield chunk
            if self.breaks:
                self.breaks -= 1
                raise self.error("connection lost")

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        self.deaf -= 1
        if self.deaf >= 0:
            raise requests.ConnectionError("connection\nrefused")
        return details("SUCCEEDED", 0)


class Status(str):
    def is_terminal(self) -> bool:
        return self in ("SUCCEEDED", "FAILED", "STOPPED")


def details(status: str, code: int | None) -> SimpleNamespace:
    return SimpleNamespace(status=Status(status), driver_exit_code=code, submission_id="job", message="out of memory")


def test_a_missing_token_is_named_with_its_cure() -> None:
    with pytest.raises(UserError, match=r"no token in RAY_AUTH_TOKEN or in .*auth_token; set RAY_AUTH_TOKEN_PATH"):
        api.headers()


def test_the_token_comes_from_the_variable_then_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert api.headers() == {"Authorization": "Bearer from-file"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-variable")
    assert api.headers() == {"Authorization": "Bearer from-variable"}


def test_a_cluster_without_tokens_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert api.headers() == {}


@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses the token"), (403, "refuses the token"), (404, "no Ray jobs API")]
)
def test_refusals_are_told_apart(server: SimpleNamespace, status: int, words: str) -> None:
    server.status = status
    with pytest.raises(UserError, match=words):
        api.check_cluster(server.address, {"Authorization": "Bearer secret"})
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_an_address_must_be_a_url_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'head:8265' but must be the head's jobs API"):
        submit.submit_and_tell("run.yaml", [], "head:8265", follow=False)
    with pytest.raises(UserError, match="nothing answers at --address"):
        api.check_cluster("http://127.0.0.1:1", {})


def test_a_wrong_config_is_refused_before_the_cluster_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config file"):
        submit.submit_and_tell(str(tmp_path / "none.yaml"), [], "http://127.0.0.1:1", follow=False)


def test_a_config_beside_a_run_on_object_storage_is_read_there(s3_server: S3Server, tmp_path: Path) -> None:
    for name in ("p.jsonl", "config.json"):
        (tmp_path / name).touch()
    run, models = s3_server.uri("submitted run"), {"base_model": str(tmp_path)}
    config = build_config({"run": run, "corpus": {"path": str(tmp_path / "p.jsonl")}, "proxies": models})
    path = submit._write_resolved(config, "job")
    assert path.parent.parent.path == "bucket/submitted run"
    assert load_config(path.uri) == config
    with pytest.raises(UserError, match="no config file at s3://"):
        load_config(path.parent.uri)


def test_the_submitted_config_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    for name in ("p.jsonl", "base/config.json"):
        (tmp_path / name).touch()
    config = build_config(
        {
            "run": str(tmp_path / "run"),
            "corpus": {"path": str(tmp_path / "p.jsonl")},
            "proxies": {"base_model": str(tmp_path / "base")},
        }
    )
    before = os.umask(0o022)
    try:
        path = submit._write_resolved(config, "job")
    finally:
        os.umask(before)
    assert path.local.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", -15, 130),
    ],
)
def test_exit_codes_are_forwarded(status: str, code: int | None, expected: int) -> None:
    assert jobs._exit_code(details(status, code), Console()) == expected


def test_a_job_that_dies_without_a_code_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    jobs._exit_code(details("FAILED", None), Console())
    assert "job failed: out of memory" in capsys.readouterr().out


@pytest.mark.parametrize("breaks", [0, 1])
def test_a_log_that_breaks_off_is_printed_once(
    breaks: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    client = FakeClient(["first\nsec", "ond\n", "third\n"], breaks)
    assert jobs.follow(client, "http://head:8265", "job", Console()) == 0
    assert capsys.readouterr().out == "first\nsecond\nthird\n"


def test_a_lost_connection_while_the_job_ends_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    client = FakeClient(["first\n"], deaf=jobs.TRIES - 1)
    assert jobs.follow(client, "http://head:8265", "job", Console()) == 0


def test_a_connection_that_stays_lost_is_said_with_the_way_back_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    client = FakeClient(["first\n"], deaf=jobs.TRIES)
    with pytest.raises(UserError) as error:
        jobs.follow(client, "http://head:8265", "job", Console())
    assert str(error.value).startswith(
        "http://head:8265 does not say any more how job is doing (connection refused); the job goes on"
    )
    assert "pdray logs job --address http://head:8265 --follow" in str(error.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Request failed with status code 500:\n  no runtime_env."), "code 500: no runtime_env."),
        (requests.ConnectionError("connection refused"), "connection refused"),
        (RuntimeError("frame\n" * 999 + "ValueError: disk full"), "frame frame ValueError: disk full"),
    ],
)
def test_a_cluster_that_does_not_take_the_job_is_quoted_in_one_line(error: Exception, words: str) -> None:
    def refuse(**job: str) -> None:
        raise error

    with pytest.raises(UserError, match=r"^http://head:8265 does not take the job \(.*submit again$") as caught:
        submit._submit_job(SimpleNamespace(submit_job=refuse), "http://head:8265", "pdray run", "job", {})
    assert f"{words});" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_interrupting_leaves_the_job_running(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(["first\n"], breaks=1, error=KeyboardInterrupt)
    assert jobs.follow(client, "http://head:8265", "job", Console()) == 130
    out = capsys.readouterr().out
    assert "job goes on" in out
    assert "pdray stop job --address http://head:8265" in out


def job(name: str, began: int | None, status: str, code: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=name, start_time=began, status=Status(status), driver_exit_code=code, entrypoint=f"python {name}"
    )


def test_jobs_are_listed_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [job("pdray-a", 1000, "FAILED", 2), job("else", 9000, "RUNNING"), job("pdray-b", 5000, "RUNNING")]
    client = SimpleNamespace(list_jobs=lambda: [*found, job("pdray-c", None, "PENDING"), job(None, 1, "RUNNING")])
    monkeypatch.setattr(jobs, "connect", lambda address: (client, address))
    lines = jobs.status("http://head:8265").splitlines()
    assert [line.split("  ")[0] for line in lines] == ["pdray-b", "pdray-a", "pdray-c"]
    assert "  failed with exit code 2  python pdray-a" in lines[1]
    assert lines[2] == "pdray-c  not begun  pending  python pdray-c"
    found.clear()
    client.list_jobs = lambda: []
    assert jobs.status("http://head:8265") == "no job of pdray on http://head:8265"


def test_a_job_that_does_not_stop_and_a_cluster_that_is_gone_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise requests.ConnectionError("connection refused")

    client = SimpleNamespace(get_job_info=lambda name: job(name, 1, "RUNNING"), stop_job=lambda name: True)
    monkeypatch.setattr(jobs, "connect", lambda address: (client, address))
    monkeypatch.setattr(jobs, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    with pytest.raises(UserError, match="pdray-a was told to stop but goes on"):
        jobs.stop("http://head:8265", "pdray-a")
    client.list_jobs = client.get_job_info = lost
    with pytest.raises(UserError, match=r"http://head:8265 does not list its jobs \(connection refused\)"):
        jobs.status("http://head:8265")
    with pytest.raises(UserError, match=r"http://head:8265 does not answer \(connection refused\)"):
        jobs.status("http://head:8265", "pdray-a")


def local(command: str, state: Path) -> subprocess.CompletedProcess[str]:
    arguments = [str(LOCAL), command, "--state", str(state)]
    return subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_a_folder_that_is_no_clusters_is_left_as_it_is(command: str, tmp_path: Path) -> None:
    victim, state = tmp_path / "victim", tmp_path / "state"
    (state / "logs").mkdir(parents=True)
    victim.mkdir()
    (state / "session").write_text(str(victim))
    for name in ("server.pid", "logs/server.log"):
        (state / name).write_text("0")
    done = local(command, state)
    assert done.returncode == 2
    assert done.stderr == (
        f"local.sh: {state} holds files but no pdray-cluster, so it is no state folder; "
        "name a new or empty one with --state\n"
    )
    assert victim.is_dir()
    assert sorted(path.name for path in state.rglob("*")) == ["logs", "server.log", "server.pid", "session"]


def test_down_removes_only_a_session_that_the_script_made(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    for session in (f"{tmp_path}/victim", f"/tmp/pdray-abcdef/../..{tmp_path}/victim"):
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "state" / "pdray-cluster").touch()
        (tmp_path / "state" / "session").write_text(session)
        done = local("down", tmp_path / "state")
        assert done.returncode == 0
        assert "which is no folder of this script; it stays" in done.stderr
        assert (tmp_path / "victim").is_dir()


def test_a_folder_with_a_similar_name_is_another_cluster(tmp_path: Path) -> None:
    environment = os.environ | {"PDRAY_LOCAL_CLUSTER": str(tmp_path / "aXb")}
    with subprocess.Popen(["sleep", "60"], env=environment) as other:
        try:
            assert local("down", tmp_path / "a.b").stdout == "nothing to stop\n"
            assert other.poll() is None
        finally:
            other.kill()


def test_asking_for_a_cluster_makes_no_folder(tmp_path: Path) -> None:
    assert local("status", tmp_path / "none").returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "http://user:SECRET@head:8265",
        "http://SECRET@head:8265",
        "http://head:8265/?token=SECRET",
        "http://head:8265#SECRET",
        "user:SECRET@head:8265",
        "http://user%3ASECRET%2540head:8265",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UserError, match=r"--address holds .*RAY_AUTH_TOKEN") as refusal:
        submit.submit_and_tell("run.yaml", [], address, follow=False)
    assert "SECRET" not in str(refusal.value)


@pytest.mark.parametrize("address", ["http://[::1", "http://.", "http://a b", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(UserError, match="nothing answers at --address"):
        api.check_cluster(address, {})


def test_a_token_that_no_header_holds_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError, match="no token in"):
        api.headers()
    for token in ("schlüssel", "a\nb"):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(UserError, match="no token in"):
            api.headers()
