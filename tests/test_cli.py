"""Exit codes where the command line itself decides them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pdray.errors import reason
from pdray.store import RunStore
from pdray.summary import summarise, table
from tests.tiny import tiny_bert


@pytest.mark.parametrize(("words", "code"), [(["init"], 0), (["version"], 0), (["run", "run.yaml", "--dry-run"], 1)])
def test_a_reader_that_has_gone(tmp_path: Path, words: list[str], code: int) -> None:
    """A half-read listing is no failure; a run that cannot speak any more is not reported as done."""
    tiny_bert(tmp_path / "base", max_positions=512)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "aspect": "x"}\n')
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_alike(number: signal.Signals) -> None:
    code = "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_DFL); from pdray import cli; "
    code += "cli._dispatch = lambda args: print('up', flush=True) or time.sleep(60)"
    command = [sys.executable, "-c", f"{code}; exit(cli.main(['version']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "up\n"
        run.send_signal(number)
        _, err = run.communicate(timeout=30)
    assert (run.returncode, err.count("\n")) == (128 + number, 1)
    assert "the same command continues" in err


def test_the_first_cause_is_told() -> None:
    error = RuntimeError("Ray's wrapping\nlast line")
    error.__cause__ = OSError("disk gone\nhint")
    assert reason(error) == "OSError: disk gone"


def test_every_selection_is_shown_and_the_current_one_marked(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for name, rows in (("selection-00000001", 3), ("selection-00000002", 5)):
        manifest = {"fingerprint": "f", "rows_out": rows, "quarantined": 0, "seconds": 1, "output": {}, "metrics": {}}
        store.finish(store.root / name, manifest | {"config": {"budget": rows / 10}})
    store.write_state({"config": {}, "stages": {"selection": "selection-00000002"}})
    found = summarise(tmp_path)
    assert [(one["current"], one["budget"]) for one in found["selection"]] == [(False, 0.3), (True, 0.5)]
    assert "also here            selection-00000001/" in table(found)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", ""])
def test_a_damaged_run_folder_is_shown(tmp_path: Path, text: str) -> None:
    RunStore(tmp_path).write_state({"config": {}, "stages": {"corpus": "corpus-1", "scores": "scores-1"}})
    (tmp_path / "corpus-1").write_text("a file in the place of a folder")
    (tmp_path / "scores-1").mkdir()
    (tmp_path / "scores-1" / "manifest.json").write_text(text)
    stages = summarise(tmp_path)["stages"]
    assert (stages["corpus"]["status"], stages["scores"]["status"]) == ("damaged", "damaged")
    assert "mv " in stages["corpus"]["reason"]


def test_nothing_waits_for_an_answer() -> None:
    code = "from pdray import cli; cli._dispatch = lambda args: input('[y/N]'); exit(cli.main(['version']))"
    asked = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(timeout=20) == 1  # its standard input stays open and silent
        assert asked.stderr is not None
        assert "EOF" in asked.stderr.read()
    finally:
        asked.kill()
