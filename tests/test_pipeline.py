"""What a run reuses, makes again and says, told on two small stages that need no Ray."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from pdray import pipeline
from pdray.errors import UserError
from pdray.pipeline import plan, run_pipeline
from pdray.schema import AlignmentOutput, CorpusOutput, EvaluationOutput
from pdray.shards import Outcome, run_rounds
from pdray.stages import Stage, StageContext, StageResult
from pdray.storage import StoragePath
from pdray.summary import summarise, table
from pdray.watchdog import Watchdog

SHARDS = 3
WRITTEN: list[int] = []


def _corpus(ctx: StageContext) -> StageResult:
    """Stands in for a stage that maps shards."""
    shards = ctx.shards(SHARDS)

    def attempt(missing: Any) -> list[Outcome]:
        for shard in missing:
            WRITTEN.append(shard)
            shards.write(shard, {"pairs": pa.table({"x": [shard, ctx.config.seed]})}, 0, {})
        return [Outcome(shard) for shard in missing]

    run_rounds(shards, attempt, ctx.progress.note)
    output = CorpusOutput(SHARDS, 2 * SHARDS, 0, ["a", "b"], {"a": 3, "b": 3}, False)
    return StageResult(output, 2 * SHARDS, 2 * SHARDS, metrics={"aspect_rows": {"a": 3, "b": 3}, "hidden": 1})


def _alignment(ctx: StageContext) -> StageResult:
    """Stands in for a stage that does not."""
    rows = sum(len(ctx.upstream.shards("corpus").read("pairs", shard)) for shard in range(SHARDS))
    (ctx.folder / "policy" / "config.json").write_bytes(b'{"model_type": "llama"}')
    (ctx.folder / "policy" / "model.safetensors").write_bytes(save({"w": np.zeros(2, np.float32)}))
    (ctx.folder / "policy" / "vocab.txt").write_bytes(b"a\n")
    return StageResult(AlignmentOutput(f"{ctx.folder.name}/policy"), rows, rows)


STAGES = [
    Stage(
        "corpus",
        2,
        (),
        lambda config: {"seed": config.seed},
        _corpus,
        lambda value: CorpusOutput(**value),
        shown=("aspect_rows",),
    ),
    Stage("alignment", 2, ("corpus",), lambda config: {}, _alignment, lambda value: AlignmentOutput(**value)),
]


@pytest.fixture(autouse=True)
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages in place of five, which load no models, and no Ray."""
    WRITTEN.clear()
    monkeypatch.setattr(pipeline, "loaded_models", lambda config, stages: [])
    monkeypatch.setattr(pipeline, "all_stages", lambda: STAGES)
    monkeypatch.setattr("pdray.summary.all_stages", lambda: STAGES)
    monkeypatch.setattr("pdray.runtime.ray_session", lambda cluster: contextlib.nullcontext())
    monkeypatch.setattr("pdray.runtime.head_watched", lambda note: contextlib.nullcontext())
    monkeypatch.setattr("pdray.probe.check_shared", lambda run, note: None)


def config(run: StoragePath | Path, seed: int = 0) -> Any:
    return SimpleNamespace(
        run=str(run),
        seed=seed,
        cluster=None,
        alignment=True,
        evaluation=True,
        model_dump=lambda mode: {"run": str(run), "seed": seed},
    )


def folder_of(run: StoragePath | Path, stage: str = "corpus") -> StoragePath:
    return StoragePath(str(run)) / summarise(str(run))["stages"][stage]["folder"]


def test_a_run_and_the_same_run_again(folder: StoragePath, capfd: pytest.CaptureFixture[str]) -> None:
    run_pipeline(config(folder))
    assert WRITTEN == [0, 1, 2]
    out = capfd.readouterr().out
    assert "corpus     6 rows in" in out
    assert "alignment  6 rows in" in out
    run_pipeline(config(folder))
    assert capfd.readouterr().out.startswith("nothing to do: corpus, alignment are complete in ")
    assert WRITTEN == [0, 1, 2]
    assert any(name.endswith("/ray.log") for name in (folder / "logs").sizes(recursive=True))


def test_what_a_stage_leaves_in_cycles_is_gone_when_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[weakref.ref[Any]] = []

    def leaving(ctx: StageContext) -> StageResult:
        def dataset() -> Any:
            return dataset

        left.append(weakref.ref(dataset))
        return _corpus(ctx)

    def asking(ctx: StageContext) -> StageResult:
        assert left[0]() is None, "what it refers to in Ray's object store would stay there"
        return _alignment(ctx)

    stages = [replace(STAGES[0], run=leaving), replace(STAGES[1], run=asking)]
    monkeypatch.setattr(pipeline, "all_stages", lambda: stages)
    gc.disable()
    try:
        run_pipeline(config(tmp_path))
    finally:
        gc.enable()
    assert left


def test_show_names_what_came_out_below_the_run(folder: StoragePath) -> None:
    run_pipeline(config(folder))
    summary = summarise(folder.uri)
    corpus = summary["stages"]["corpus"]
    assert {name: corpus[name] for name in ("status", "rows", "attempts", "quarantined", "aspect_rows", "holds")} == {
        "status": "complete",
        "rows": 6,
        "attempts": 1,
        "quarantined": 0,
        "aspect_rows": {"a": 3, "b": 3},
        "holds": ["pairs"],
    }
    assert "hidden" not in corpus
    assert summary["stages"]["alignment"]["holds"] == ["policy"]
    assert f"{corpus['folder']}/pairs/" in table(summary)
    assert "attempts" not in table(summary)


def test_shares_of_lengths_are_shown_by_length():
    shares = {"16-31 tokens": 0.5, "2-3 tokens": 0.25, "4-7 tokens": 1.0}
    shown = table({"run": "r", "stages": {"selection": {"status": "complete", "share_by_length": shares}}})
    assert "2-3 tokens 0.250, 4-7 tokens 1.000, 16-31 tokens 0.500" in shown


def test_the_page_is_written_anew_where_it_is_of_another_selection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing else is to do, as after the run of another budget in the same folder."""
    written: list[Any] = []
    monkeypatch.setattr(pipeline, "_write_page", lambda *run: written.append(run))
    run_pipeline(config(tmp_path))
    run_pipeline(config(tmp_path))
    assert len(written) == 2
    monkeypatch.setattr(pipeline, "_page_shows", lambda store, steps: True)
    run_pipeline(config(tmp_path))
    assert len(written) == 2


def test_a_finished_run_that_was_moved_is_finished(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_pipeline(config(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    capfd.readouterr()
    run_pipeline(config(tmp_path / "there"))
    assert capfd.readouterr().out.startswith("nothing to do")
    text = table(summarise(tmp_path / "there"))
    assert text.startswith(f"run {tmp_path / 'there'}")
    assert "complete" in text
    assert "here/" not in text.replace("there/", "")


def test_a_shard_that_was_deleted_is_announced_and_alone_made_again(
    folder: StoragePath, capfd: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(config(folder))
    corpus = folder_of(folder)
    (corpus / "pairs" / "shard-00001.parquet").delete()
    WRITTEN.clear()
    capfd.readouterr()
    run_pipeline(config(folder))
    out = capfd.readouterr().out
    assert f"corpus     1 of 3 shards in {corpus.name} are missing or damaged; what is missing is made again" in out
    assert "alignment  done before, reused" in out
    assert WRITTEN == [1]
    assert summarise(folder.uri)["stages"]["corpus"]["attempts"] == 2
    assert "attempts" in table(summarise(folder.uri))
    assert all(step.manifest for step in plan(config(folder)))


def test_a_model_that_was_deleted_is_announced_and_made_again(
    folder: StoragePath, capfd: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(config(folder))
    policy = folder_of(folder, "alignment") / "policy"
    policy.delete()
    capfd.readouterr()
    run_pipeline(config(folder))
    assert f"the model folder {policy.parent.name}/policy is missing or damaged" in capfd.readouterr().out
    assert (policy / "config.json").exists()


def test_a_lost_model_that_others_were_made_from_is_not_mixed_with_its_successor(
    folder: StoragePath, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained again it may be another one: what read the first is made anew, in folders of its own."""
    judged: list[str] = []

    def judge(ctx: StageContext) -> StageResult:
        judged.append(ctx.upstream.folders["alignment"].name)
        return StageResult(EvaluationOutput(1), 1, 1)

    reader = Stage("evaluation", 1, ("alignment",), lambda config: {}, judge, lambda value: EvaluationOutput(**value))
    stages = [STAGES[0], replace(STAGES[1], anew=True), reader]
    monkeypatch.setattr(pipeline, "all_stages", lambda: stages)
    monkeypatch.setattr("pdray.summary.all_stages", lambda: stages)
    run_pipeline(config(folder))
    first = folder_of(folder, "alignment")
    (first / "policy" / "model.safetensors").delete()
    capfd.readouterr()
    run_pipeline(config(folder))
    assert f"alignment  the model folder {first.name}/policy is missing or damaged" in capfd.readouterr().out
    second = folder_of(folder, "alignment")
    assert judged == [first.name, second.name] and first.uri != second.uri
    assert (second / "policy" / "model.safetensors").exists() and not (first / "policy" / "model.safetensors").exists()
    run_pipeline(config(folder))
    assert capfd.readouterr().out.startswith("nothing to do: corpus, alignment, evaluation are complete")
    (second / "policy" / "model.safetensors").delete()
    run_pipeline(config(folder))
    assert len(set(judged)) == 3


def _replace(text: bytes) -> Callable[[Path], object]:
    return lambda path: (path.unlink(), path.write_bytes(text))


@pytest.mark.parametrize(
    "damage",
    [
        _replace(b""),
        _replace(b'{"fingerprint": "'),
        _replace(b"[]"),
        _replace(b"{}"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: path.write_text(path.read_text().replace('"num_shards": 3,', "")),
        lambda path: path.write_text(path.read_text().replace('"num_shards": 3,', '"num_shards": "three",')),
    ],
    ids=["empty", "truncated", "list", "no keys", "folder", "pipe", "a key less", "another type"],
)
def test_a_damaged_manifest_is_named_moved_aside_and_written_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    run_pipeline(config(tmp_path))
    corpus = folder_of(tmp_path).local
    before = (corpus / "manifest.json").read_text()
    damage(corpus / "manifest.json")
    WRITTEN.clear()
    capfd.readouterr()
    steps = plan(config(tmp_path))
    assert [step.manifest is None for step in steps] == [True, False]
    assert corpus.name in (steps[0].damage or "")
    assert not (corpus / "manifest.json.damaged-1").exists(), "a plan moves nothing"
    run_pipeline(config(tmp_path))
    assert "manifest" in capfd.readouterr().out
    assert (corpus / "manifest.json.damaged-1").exists()
    assert WRITTEN == [], "the shards are whole"
    after = (corpus / "manifest.json").read_text()
    assert sorted(after.splitlines())[:3] == sorted(before.splitlines())[:3]
    assert summarise(tmp_path)["stages"]["corpus"]["status"] == "complete"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.write_text("[]")])
def test_show_says_that_a_manifest_is_damaged(tmp_path: Path, make: Callable[[Path], object]) -> None:
    run_pipeline(config(tmp_path))
    manifest = folder_of(tmp_path).local / "manifest.json"
    manifest.unlink()
    make(manifest)
    stage = summarise(tmp_path)["stages"]["corpus"]
    assert stage["status"] == "damaged"
    assert "manifest.json is no" in stage["reason"]
    assert "damaged" in table(summarise(tmp_path))


def test_show_says_that_a_table_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pipeline(config(tmp_path))
    corpus = folder_of(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, *rest, **options: path != f"{corpus}/pairs")  # root reads everything
    stages = summarise(tmp_path)["stages"]
    assert [stage["status"] for stage in stages.values()] == ["damaged", "complete"]
    assert stages["corpus"]["reason"].startswith(f"{corpus}/pairs cannot be read (Permission denied); open it")


def test_show_while_it_runs_and_after_it_was_interrupted(folder: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def interrupted(ctx: StageContext) -> StageResult:
        seen.append([stage["status"] for stage in summarise(folder.uri)["stages"].values()])
        raise RuntimeError("in the middle")

    broken = [Stage(**{**vars(STAGES[0]), "run": interrupted}), STAGES[1]]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "all_stages", lambda: broken)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="in the middle"):
                run_pipeline(config(folder))
    assert seen == [["running", "incomplete"]] * 2
    stages = summarise(folder.uri)["stages"]
    assert [stage["status"] for stage in stages.values()] == ["incomplete", "incomplete"]
    assert stages["corpus"]["attempts"] == 2
    run_pipeline(config(folder))
    assert summarise(folder.uri)["stages"]["corpus"]["attempts"] == 3


def test_a_stage_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    step = plan(config(tmp_path))[0]
    step.folder.local.touch()
    with pytest.raises(UserError, match="should be a folder, but a file stands there"):
        run_pipeline(config(tmp_path))


def test_another_seed_is_another_folder(tmp_path: Path) -> None:
    run_pipeline(config(tmp_path))
    run_pipeline(config(tmp_path, seed=1))
    assert len(list(tmp_path.glob("corpus-*"))) == 2


@pytest.mark.parametrize("lost", ["model.safetensors", "vocab.txt"])
def test_a_model_that_lost_a_part_is_made_again(
    folder: StoragePath, capfd: pytest.CaptureFixture[str], lost: str
) -> None:
    if lost == "vocab.txt" and not folder.is_local:
        pytest.skip("on object storage weights alone are looked for")
    run_pipeline(config(folder))
    policy = folder_of(folder, "alignment") / "policy"
    (policy / lost).delete()
    run_pipeline(config(folder))
    assert f"the model folder {policy.parent.name}/policy is missing or damaged" in capfd.readouterr().out
    assert (policy / lost).exists()


def test_a_manifest_that_speaks_of_endless_shards_ends(tmp_path: Path) -> None:
    run_pipeline(config(tmp_path))
    manifest = folder_of(tmp_path).local / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_shards": 3,', f'"num_shards": {10**12},'))
    assert (plan(config(tmp_path))[0].damage or "").startswith(f"{10**12} of {10**12} shards")


@pytest.mark.parametrize("name", ["logs", "logs/latest"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, Path.touch, lambda path: path.mkdir(parents=True), lambda path: path.symlink_to("logs")]
)
def test_what_stands_in_the_place_of_the_logs_is_named(
    tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    if (name == "logs") == (tmp_path / name).is_dir():
        run_pipeline(config(tmp_path))
        return
    with pytest.raises(UserError, match=rf"{name} should be a .* move it away: mv .*\.damaged"):
        run_pipeline(config(tmp_path))


@pytest.mark.parametrize("name", ["manifest.json", "pairs/shard-00001.parquet"])
def test_a_run_folder_that_does_not_answer_is_named(tmp_path: Path, name: str) -> None:
    run_pipeline(config(tmp_path))
    path = folder_of(tmp_path).local / name
    size = path.stat().st_size
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a regular file that cannot be read, whoever asks
    if name == "manifest.json":
        with pytest.raises(UserError, match=r"the run folder .* cannot be read .*nput/output error"):
            summarise(tmp_path)
        with pytest.raises(
            UserError, match=r"corpus-\w+ cannot be read .*nput/output error.*set run to another folder"
        ):
            plan(config(tmp_path))
    else:
        assert size and "1 of 3 shards" in str(plan(config(tmp_path))[0].damage)


def slow_corpus(monkeypatch: pytest.MonkeyPatch, during: Callable[[], None]) -> None:
    """Something happens while the corpus is made."""

    def run(ctx: StageContext) -> StageResult:
        during()
        return _corpus(ctx)

    monkeypatch.setattr(pipeline, "all_stages", lambda: [replace(STAGES[0], run=run), STAGES[1]])


@pytest.mark.parametrize("jump", [-3 * 3600, 3 * 3600])
def test_a_clock_that_jumps_does_not_change_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    real = time.time
    slow_corpus(monkeypatch, lambda: monkeypatch.setattr(time, "time", lambda: real() + jump))
    run_pipeline(config(tmp_path / "run"))
    assert 0 <= summarise(str(tmp_path / "run"))["stages"]["corpus"]["seconds"] < 60


def test_a_stage_that_stands_still_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pdray.progress.Watchdog", partial(Watchdog, stall=0.1))
    monkeypatch.setattr("pdray.watchdog.LOOK_SECONDS", 0.05)
    slow_corpus(monkeypatch, lambda: time.sleep(0.5))
    run_pipeline(config(tmp_path / "run"))
    assert "corpus     no progress for 0:00 (since " in capfd.readouterr().out
