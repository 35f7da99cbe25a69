"""How a command ends where its streams, its words or its places are none that it can use."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdray import cli
from tests.sharing.cases import finished_run

PDRAY = f'"{sys.executable}" -m pdray'


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of the shell, in a folder."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    buffered |= {"PYTHONPATH": str(Path(cli.__file__).parents[2])} | environment
    return subprocess.run(["bash", "-c", command], cwd=folder, env=buffered, capture_output=True, text=True)


@pytest.mark.parametrize("words", ["init > /dev/full", "version > /dev/full", "init >&-", "version >&-"])
def test_a_standard_output_that_takes_nothing(tmp_path: Path, words: str) -> None:
    done = shell(f"{PDRAY} {words}", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "standard output" in done.stderr
    assert "redirect it" in done.stderr or "make room" in done.stderr


def test_a_standard_error_that_is_closed(tmp_path: Path) -> None:
    done = shell(f"{PDRAY} show none 2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("words", ["init", "plan --help", "run --help"])
def test_a_standard_output_that_takes_ascii_alone(tmp_path: Path, words: str) -> None:
    done = shell(f"{PDRAY} {words}", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and len(done.stdout) > 500


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    code = "from pdray import cli; import sys; sys.exit(cli.main())"
    gone = "mkdir gone && cd gone && rmdir ../gone"
    done = shell(f"{gone} && '{sys.executable}' -c '{code}' models minilm new", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1:] == [
        "pdray: the working directory is gone or closed to this user; cd to another one"
    ]
    assert "Traceback" not in done.stderr


def test_words_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, odd = finished_run(tmp_path / "run").run.uri, os.fsdecode(b"\xff")
    for words in (["export", run, str(tmp_path / "new")], ["push", run, "me/mine"]):
        assert cli.main([*words, "--license", odd]) == 2
        assert capsys.readouterr().err == r"pdray: --license is '\udcff', which is not UTF-8; write it in UTF-8" + "\n"
    (tmp_path / "in.jsonl").touch()
    data = ["data", "rated", "--input", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "new"), "--license", odd]
    assert cli.main(data) == 2
    assert "--license" in capsys.readouterr().err
    assert cli.main(["export", run, str(tmp_path / odd)]) == 0


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EACCES, "open it to this user"),
        (errno.EROFS, "name another"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ENOSPC, "make room"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, cure: str
) -> None:
    def refused(args: object) -> int:
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr(cli, "_dispatch", refused)
    assert cli.main(["version"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pdray: /some/place: {os.strerror(number)}; ") and cure in said and said.count("\n") == 1


def test_a_file_that_pdray_itself_misses_stays_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda args: Path("/no/such/file").read_bytes())
    assert cli.main(["version"]) == 1
    assert "Traceback" in capsys.readouterr().err
