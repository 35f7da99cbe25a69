"""A folder that is there whole or not at all, wherever it is asked for."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pdray.cli import main
from pdray.errors import UserError
from pdray.models import packaged
from pdray.newfolder import made_whole
from tests.sharing.cases import finished_run

RATED = '{"prompt": "q", "response": "a", "rating.x": 1, "rating.y": 2}\n'
RATED += '{"prompt": "q", "response": "b", "rating.x": 2, "rating.y": 1}\n'


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Each command that writes such a folder, but for the folder's name."""
    (tmp_path / "in.jsonl").write_text(RATED * 3)
    run = finished_run(tmp_path / "run").run.uri
    monkeypatch.setitem(packaged.MODELS, "minilm", lambda folder: (folder / "config.json").write_text("{}"))
    return [["data", "rated", "--input", str(tmp_path / "in.jsonl"), "--out"], ["export", run], ["models", "minilm"]]


def test_a_link_to_an_empty_folder_is_followed(tmp_path: Path, commands: list[list[str]]) -> None:
    for number, command in enumerate(commands):
        empty, link = tmp_path / f"empty{number}", tmp_path / f"link{number}"
        empty.mkdir()
        link.symlink_to(empty.name)
        assert main([*command, str(link)]) == 0
        assert link.is_symlink() and len(list(empty.iterdir())) >= 1


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path, commands: list[list[str]]) -> None:
    for number, command in enumerate(commands):
        assert main([*command, str(tmp_path / (f"{number}" * 255))]) == 0
    assert sorted(len(path.name) for path in tmp_path.iterdir()) == [3, 8, 255, 255, 255]


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x", "a" * 256])
def test_a_place_that_takes_no_folder_is_one_sentence(
    tmp_path: Path, commands: list[list[str]], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands:
        assert main([*command, str(tmp_path / place)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and place in said and "name another folder" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "run"]


def test_a_place_that_is_closed_is_one_sentence(
    tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    monkeypatch.setattr("tempfile.mkdtemp", closed)  # the tests may run as root, for whom nothing is closed
    for command in commands:
        assert main([*command, str(tmp_path / "new")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Permission denied" in said and "name another folder" in said


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), made_whole(tmp_path / "a" / "new") as folder:
        (folder / "file").touch()
        raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="cannot write to"), made_whole(tmp_path / "full"):
        pass  # something came there meanwhile
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
