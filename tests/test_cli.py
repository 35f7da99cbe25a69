"""Exit codes where the command line itself decides them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdray.cli import main
from pdray.config import load_config
from pdray.errors import reason
from pdray.pipeline import plan
from pdray.store import RunStore
from pdray.summary import summarise, table
from tests.models.cases import drop_tokenizer
from tests.tiny import tiny_bert, tiny_llama_lm


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


def test_what_went_wrong_in_a_pool_is_told_without_its_traceback() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(ValueError) as failure:
        pool.apply(int, ("none",))
    assert reason(failure.value) == "ValueError: invalid literal for int() with base 10: 'none'"


def test_every_selection_is_shown_and_the_current_one_marked(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for name, rows in (("selection-00000001", 3), ("selection-00000002", 5)):
        manifest = {"fingerprint": "f", "rows_out": rows, "quarantined": 0, "seconds": 1, "output": {}, "metrics": {}}
        store.finish(store.root / name, manifest | {"config": {"budget": rows / 10}})
    store.write_state({"config": {}, "stages": {"selection": "selection-00000002"}})
    found = summarise(tmp_path)
    assert [(one["current"], one["budget"]) for one in found["selection"]] == [(False, 0.3), (True, 0.5)]
    assert "also here            selection-00000001/" in table(found)


def test_figures_within_figures_are_shown_in_words(tmp_path: Path) -> None:
    figures = {
        "readings": {"apart": {"seconds": 39.1694, "validation_loss": 0.6585}},
        "agreement": {"kind": [1.0, 0.2752], "honest": [0.2752, 1.0]},
        "aspects": {
            "kind": {"train_pairs": 9, "held_out_accuracy": 0.5, "length_correlation": {"after": 0.1, "before": 0.4}}
        },
    }
    manifest = {"fingerprint": "f", "rows_out": 9, "quarantined": 0, "seconds": 1, "output": {}, "metrics": figures}
    store = RunStore(tmp_path)
    store.finish(store.root / "proxies-00000001", manifest)
    store.write_state({"config": {}, "stages": {"proxies": "proxies-00000001"}})
    told = table(summarise(tmp_path))
    assert "readings             apart (seconds 39.169, validation loss 0.658)" in told
    assert "agreement            honest 0.275 1.000, kind 1.000 0.275" in told
    assert "accuracy 0.500, length correlation before 0.400, length correlation after 0.100" in told


def test_the_accuracy_of_a_policy_is_shown_with_its_interval(tmp_path: Path) -> None:
    figures = {"mean": 0.6123, "low": 0.58, "high": 0.65, "pairs": 1200}
    manifest = {"fingerprint": "f", "rows_out": 1200, "quarantined": 0, "seconds": 1, "output": {}}
    score = {"mean": 1.25, "low": 1.1, "high": 1.4}
    store = RunStore(tmp_path)
    store.finish(
        store.root / "evaluation-00000001",
        manifest
        | {
            "metrics": {
                "accuracy": figures,
                "aspects": {"honesty": figures | {"mean": 0.5}},
                "win_rates": {
                    "gpt": figures
                    | {"failed": 3, "inconsistent": 40, "length_controlled": figures, "average_win_score": score}
                },
            }
        },
    )
    store.write_state({"config": {}, "stages": {"evaluation": "evaluation-00000001"}})
    lines = " ".join(table(summarise(tmp_path)).split())
    assert "accuracy 61.2% (58.0% to 65.0%) of 1,200 pairs" in lines
    assert "aspect honesty 50.0% (58.0% to 65.0%) of 1,200 pairs" in lines
    assert "judge gpt wins 61.2% (58.0% to 65.0%) of 1,200, at equal length 61.2% (58.0% to 65.0%)" in lines
    assert "win score 1.25 (1.10 to 1.40), 3 failed, 40 inconsistent" in lines


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


def test_a_sentence_is_one_line_of_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["run", f"{tmp_path}/\x1b[2J\n\u2028{'x' * 9000}"]
    assert main(words) == 2
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"pdray: no config file at {tmp_path}/\\x1b[2J\\n\\u2028xxx")
    assert told[0].endswith("write one with: pdray init > run.yaml")
    assert len(told[0]) < 2000
    with pytest.raises(SystemExit):
        main(["show", "x", "a\nb"])
    assert capfd.readouterr().err.splitlines()[-1].endswith("unrecognized arguments: a\\nb")


def test_a_shell_is_told_what_may_come_next() -> None:
    line = "pdray sel"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout"}
    environment = os.environ | asked | {"_ARGCOMPLETE": "1"}
    done = subprocess.run([sys.executable, "-m", "pdray"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "select")


def write_run(root: Path, **manifest: Any) -> None:
    store = RunStore(root)
    whole = {"fingerprint": "f", "rows_out": 1, "quarantined": 0, "seconds": 1, "output": {}, "metrics": {}}
    store.finish(store.root / "proxies-00000001", whole | manifest)
    store.write_state({"config": {}, "stages": {"proxies": "proxies-00000001"}})


@pytest.mark.parametrize(
    "manifest",
    [
        {"metrics": {"aspects": ["a"]}},
        {"metrics": {"aspects": {"a": {"held_out_accuracy": 0.5}}}},
        {"metrics": {"reading": "\ud800"}},
        {"seconds": 10**400},
        {"attempts": "7"},
    ],
)
def test_figures_that_are_none_are_shown_as_far_as_that_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: dict[str, Any]
) -> None:
    write_run(tmp_path)
    path = tmp_path / "proxies-00000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    assert main(["show", str(tmp_path)]) == 0
    assert "proxies    complete" in capsys.readouterr().out


def test_names_from_the_data_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aspect = {"\x1b[2Jhelpful\nscores     complete": {}}
    write_run(tmp_path, metrics={"aspects": aspect, "reading": "\x1b]0;title\x07"})
    assert main(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert r"aspect \x1b[2Jhelpful\nscores     complete" in shown


@pytest.mark.parametrize(("run", "words"), [("", "an empty path"), ("file:///tmp", "leave file:// out")])
def test_what_is_no_run_folder_is_not_shown(run: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", run]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("words", [["demo", "--folder"], ["models", "minilm"]])
@pytest.mark.parametrize("name", ["file/x", "circle"])
def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    assert main([*words, str(tmp_path / name)]) == 2
    assert str(tmp_path / name) in capsys.readouterr().err


def test_a_dry_run_tells_what_is_wrong_in_config_and_files_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_bert(tmp_path / "base", max_positions=512)
    tiny_llama_lm(tmp_path / "policy", chat=False)
    drop_tokenizer(tmp_path / "policy")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    settings = {
        "corpus": {"path": str(tmp_path / "pairs.jsonl")},
        "proxies": {"base_model": str(tmp_path / "base")},
        "selection": {"budget": 7},
        "alignment": {"policy": str(tmp_path / "policy"), "max_tokens": 64},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    assert main(["run", str(tmp_path / "run.yaml"), "--dry-run"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [any(word in line for line in told) for word in ("budget is 7", "'aspect'", "no tokenizer")] == [True] * 3
    assert len(told) == 3
    # A section that is wrong by itself is not looked into: what its files lack may follow from that.
    settings["corpus"] |= {"kind": "triples"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", str(tmp_path / "run.yaml"), "--dry-run"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [any(word in line for line in told) for word in ("kind is 'triples'", "'aspect'")] == [True, False]


def test_a_dry_run_tells_what_is_wrong_in_run_folder_and_files_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_bert(tmp_path / "base", max_positions=512)
    drop_tokenizer(tmp_path / "base")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "aspect": "c"}\n')
    (tmp_path / "run.yaml").write_text("corpus: {path: pairs.jsonl}\nproxies: {base_model: base}\n")
    words = [f"corpus.path={tmp_path}/pairs.jsonl", f"proxies.base_model={tmp_path}/base", f"run={tmp_path}/run"]
    config = load_config(tmp_path / "run.yaml", words)
    folder = plan(config)[0].folder.local
    folder.parent.mkdir()
    folder.touch()
    capsys.readouterr()
    assert main(["run", str(tmp_path / "run.yaml"), "--dry-run", *(f"--set={word}" for word in words)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert ["should be a folder" in told[0], "no tokenizer" in told[1], len(told)] == [True, True, 2]
