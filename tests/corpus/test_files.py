"""Which files a corpus is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdray.corpus.files import list_files
from pdray.errors import UserError
from pdray.paths import expand


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_name_that_is_not_utf8_is_told(scheme: str, tmp_path: Path) -> None:
    """Found by the fuzz suite: a listing by URI raised UnicodeDecodeError."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).touch()
    with pytest.raises(UserError, match=r"udcff.jsonl' is not UTF-8.*rename it"):
        list_files(f"{scheme}{tmp_path}")


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be listed, whoever runs the tests."""
    folder, listing = tmp_path / "closed", os.scandir

    def scandir(path: Any = ".") -> Iterator[os.DirEntry[str]]:
        if str(path).rstrip("/") == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    folder.mkdir()
    (folder / "b.jsonl").touch()
    (tmp_path / "a.jsonl").touch()
    monkeypatch.setattr(os, "scandir", scandir)
    return folder


@pytest.mark.parametrize("pattern", ["", "/", "/**/*.jsonl", "/*/*.jsonl", "/closed", "/**"])
def test_a_folder_that_cannot_be_listed_is_not_left_out(closed: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=rf"^{closed} cannot be listed \(Permission denied\).*open it"):
        expand(f"{closed.parent}{pattern}")


def test_a_folder_that_a_pattern_does_not_reach_is_none_of_it(closed: Path) -> None:
    assert expand(f"{closed.parent}/*.jsonl") == [f"{closed.parent}/a.jsonl"]


def test_a_link_that_leads_nowhere_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    for name, target in (("b.jsonl", "gone"), ("c.jsonl", "c.jsonl")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=rf"{name} is a link that leads to no file"):
            expand(str(tmp_path))
        (tmp_path / name).unlink()
    (tmp_path / "notes").symlink_to("gone")
    assert expand(str(tmp_path)) == [f"{tmp_path}/a.jsonl"]


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*", "/**/**/*.jsonl"])
def test_links_in_circles_have_an_end(tmp_path: Path, pattern: str) -> None:
    """Two links to their own folder make 2^40 paths, three folders that lead to each other as many."""
    for name in ("x", "y", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").touch()
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(".")
        (tmp_path / "x" / name).symlink_to("../../" + tmp_path.name)
    (tmp_path / "x" / "more").symlink_to("../y")
    (tmp_path / "y" / "more").symlink_to("../x")
    found = [path.removeprefix(f"{tmp_path}/") for path in expand(f"{tmp_path}{pattern}")]
    assert found == ["x/a.jsonl", "x/more/a.jsonl", "y/a.jsonl", "y/more/a.jsonl", "z/a.jsonl"]


def test_folders_that_all_lead_to_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(number) for number in range(8)]
    for name in names:
        (tmp_path / name).mkdir()
        for other in names:
            (tmp_path / name / other).symlink_to(f"../{other}")
    listed, listing = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or listing(path))
    with pytest.raises(UserError, match=r"^more than 1,000 links lead to folders .*; take links away"):
        expand(str(tmp_path))
    assert len(listed) < 2000


def test_a_folder_is_read_under_every_name_that_links_give_it(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.jsonl").touch()
    (tmp_path / "data").mkdir()
    for name in ("aspect=x", "aspect=y"):
        (tmp_path / "data" / name).symlink_to("../all")
    found = [f"{tmp_path}/data/{name}/a.jsonl" for name in ("aspect=x", "aspect=y")]
    assert expand(f"{tmp_path}/data") == expand(f"{tmp_path}/data/*/*.jsonl") == found


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("?.json*", ["a.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "in/b.jsonl", "in/deep/c.jsonl"]),
        ("in/*", ["in/b.jsonl"]),
        ("*/[bc].jsonl", ["in/b.jsonl"]),
        ("in/**", ["in/b.jsonl", "in/deep/c.jsonl"]),
        ("**/deep/*", ["in/deep/c.jsonl"]),
        ("./in//*.jsonl", ["./in/b.jsonl"]),
        (".hidden/*", [".hidden/d.jsonl"]),
        (".*.jsonl", [".e.jsonl"]),
        ("in/b.jsonl/*", []),
        ("none", []),
        ("", []),
    ],
)
def test_patterns_are_those_of_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, found: list[str]
) -> None:
    for name in ("a.jsonl", "notes.txt", "in/b.jsonl", "in/deep/c.jsonl", ".hidden/d.jsonl", ".e.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert expand(pattern) == found
