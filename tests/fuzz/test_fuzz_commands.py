"""Command lines of any words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.case import check
from tests.fuzz.damage import FOREIGN
from tests.fuzz.values import texts
from tests.fuzz.world import World, cases

# What a word may name, below the folder of the test; each is made once.
THINGS = (
    "empty",
    "folder",
    "pipe",
    "circle",
    "dangling",
    "loop.yaml",
    "good.yaml",
    *(f"foreign-{name}" for name in FOREIGN),
)
PATHS = (*THINGS, "nowhere", "nowhere/x", "empty/x", "pipe/x", "/dev/null", "/dev/zero", "/proc/self/mem", "/proc",
"/", ".", "~", "~nobody",
         "a" * 300, "a/" * 3000, "-", "--", "s3://", "file:///tmp", "file:///dev/zero", "x://y",
         "http://127.0.0.1:1/x", "memory://x")  # fmt: skip
ADDRESSES = (
    "http://127.0.0.1:1", "https://127.0.0.1:1", "http://", "http://[::1", "http://[::1]:1", "127.0.0.1:1",
    "ray://127.0.0.1:1", "auto", "",
    "http://user:SECRET@127.0.0.1:1", "http://SECRET@127.0.0.1:1", "http://127.0.0.1:1/?token=SECRET", "http://127.0.0.1:1#SECRET",
    "user:SECRET@127.0.0.1", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://127.0.0.1:-1", "http:///x",
    "http://.", "http://a\nb",
    "HTTP://127.0.0.1:1", "http:// ", "http://" + "a" * 300, "http://user%3ASECRET%40127.0.0.1:1", "http://127.0.0.1:1/%00",
)  # fmt: skip

HARDWARE = (
    "8xH100",
    "8XL40S",
    "1 x a100-80",
    "0xH100",
    "-8xH100",
    "8xV100",
    "x",
    "",
    "8x",
    "9" * 5000 + "xH100",
    "٨xH100",
)

paths = st.sampled_from(PATHS) | st.sampled_from(THINGS) | texts.filter(lambda text: "://" not in text)
option = st.sampled_from(
    [
        "--dry-run",
        "--json",
        "--until",
        "--set",
        "--follow",
        "--address",
        "--help",
        "-h",
        "--folder",
        "--dry",
        "--se",
        "-x",
    ]
)
override = st.sampled_from(
    [
        "selection.budget=0.1",
        "run=empty",
        "run=pipe",
        "run=circle",
        "corpus.path=pipe",
        "alignment=null",
        "x",
        "=",
        "run=",
    ]
)
until = st.sampled_from(["corpus", "scores", "alignment", "nothing", ""])
checked = st.one_of(
    st.tuples(st.just("--until"), until), st.tuples(st.just("--set"), override), st.tuples(option), st.tuples(texts)
)
configs = st.one_of(st.just("good.yaml"), paths)


def _joined(parts: list[tuple[str, ...]]) -> list[str]:
    return [word for part in parts for word in part]


commands = st.one_of(
    st.lists(texts | option | st.sampled_from(["init", "version", "show"]), max_size=4).filter(
        lambda words: not words or words[0] not in ("run", "select", "plan", "demo", "models", "submit")
    ),
    st.builds(lambda path, more: ["show", path, *more], paths, st.lists(option | texts, max_size=2)),
    # Nothing is started: all of them end with --dry-run.
    st.builds(
        lambda command, path, more: [command, path, *_joined(more), "--dry-run"],
        st.sampled_from(["run", "select"]), configs, st.lists(checked, max_size=3),
    ),
    st.builds(
        lambda path, on, price, more: ["plan", path, "--on", on, "--price", price, *_joined(more)],
        configs, st.sampled_from(HARDWARE) | texts, st.sampled_from(["2", "0", "-1", "nan", "inf", "1e999", "x"]),
        st.lists(checked, max_size=2),
    ),
    st.builds(
        lambda path, address, more: ["submit", path, "--address", address, *_joined(more)],
        configs, st.sampled_from(ADDRESSES), st.lists(checked, max_size=1),
    ),
    st.builds(
        lambda command, job, address, more: [command, job, "--address", address, *more],
        st.sampled_from(["status", "logs", "stop"]), texts | st.sampled_from(PATHS), st.sampled_from(ADDRESSES),
        st.lists(option, max_size=1),
    ),
    st.builds(
        lambda run, out, more: ["export", run, out, *more], paths, paths,
        st.lists(st.sampled_from(["--test", "0.5", "2", "nan", "--format", "jsonl", "--license", ""]), max_size=4),
    ),
    # Folders that are taken or cannot be made: what is built takes long.
    st.builds(lambda name, folder: ["models", name, folder], st.sampled_from(["minilm", "smollm2", "x"]),
    st.sampled_from(
        ["folder", "empty", "empty/x", "pipe", "circle", "circle/x", "/dev/null", "/proc/x", "."])),
    st.builds(lambda folder, more: ["demo", "--folder", folder, *more], st.sampled_from(["empty", "empty/x", "pipe",
    "circle", "/dev/null", "/proc/x"]),
              st.lists(st.sampled_from(["--write-only", "-x"]), max_size=1)),
)  # fmt: skip


@pytest.fixture
def things(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of each."""
    (here / "empty").touch()
    (here / "folder").mkdir()
    (here / "folder" / "x").touch()
    os.mkfifo(here / "pipe")
    (here / "circle").symlink_to("circle")
    (here / "dangling").symlink_to("nowhere-else")
    (here / "loop.yaml").write_text("a: &a [*a]")
    (here / "good.yaml").write_text(world.config.read_text())
    for name, data in FOREIGN.items():
        (here / f"foreign-{name}").write_bytes(data)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    return here


@cases(350)
@given(words=commands)
def test_command_lines(things: Path, words: list[str]) -> None:
    outcome = check("command line", *words)
    assert "SECRET" not in outcome.out + outcome.err, words
