"""Exit codes where the command line itself decides them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdray.store import RunStore
from pdray.summary import summarise
from tests.tiny import tiny_bert


@pytest.mark.parametrize(("words", "code"), [(["init"], 0), (["version"], 0), (["run", "run.yaml", "--dry-run"], 1)])
def test_a_reader_that_has_gone(tmp_path: Path, words: list[str], code: int) -> None:
    """A half-read listing is no failure; a run that cannot speak any more is not reported as done."""
    tiny_bert(tmp_path / "base", max_positions=512)
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    (tmp_path / "run.yaml").write_text("corpus: {path: pairs.jsonl}\nproxies: {base_model: base}\n")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pdray", *words],
        cwd=tmp_path,
        env=buffered,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_section_that_is_left_out_is_not_incomplete(tmp_path: Path) -> None:
    RunStore(tmp_path).write_state({"config": {}, "stages": {"corpus": "corpus-1"}})
    stages = summarise(tmp_path)["stages"]
    assert stages["corpus"]["status"] == "incomplete"
    assert stages["alignment"]["status"] == "not configured"


def test_nothing_waits_for_an_answer() -> None:
    code = "from pdray import cli; cli._dispatch = lambda args: input('[y/N]'); exit(cli.main(['version']))"
    asked = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(timeout=20) == 1  # its standard input stays open and silent
        assert asked.stderr is not None
        assert "EOF" in asked.stderr.read()
    finally:
        asked.kill()
