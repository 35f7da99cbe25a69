"""The worker of a pass, called without Ray: slices, failed rows, what is written and what is said."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdray.config import ScoresConfig
from pdray.engines import actor
from pdray.engines.actor import FAILED_BEFORE, ShardScorer, Work, without_sample
from pdray.engines.encode import ModelEncoder, TextFacts
from pdray.engines.engine import EngineLoader, load_engine
from pdray.engines.failures import EngineBrokenError
from pdray.engines.parity import _reference
from pdray.engines.pool import ActorSize, engine_options
from pdray.engines.shards import TextPass
from pdray.engines.transformers_engine import TransformersEngine
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from pdray.texts import read_texts
from pdray.tokens import token_rule
from tests.engines.doubles import BrokenEngine, RaisingEngine, SpoiltEngine, SquashedEngine
from tests.scoring.cases import make_texts, write_corpus
from tests.tiny import tiny_bert, tiny_llama_reward

TEXTS = make_texts(90, poison=41)


class Counts:
    """Stands for the progress counter."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def add(self, count: int) -> None:
        self.done.append(count)

    @contextlib.contextmanager
    def working(self, label: str) -> Iterator[None]:
        yield


class TableWriter:
    """Writes what it is given."""

    def __call__(self, shard: int, rows: np.ndarray, outputs: np.ndarray, facts: TextFacts) -> Any:
        columns = {f"output{column}": outputs[:, column] for column in range(outputs.shape[1])}
        columns |= {"row": rows, "num_tokens": facts.num_tokens, "truncated": facts.truncated}
        return {"texts": pa.table(columns)}, {"written": len(rows)}


class EveryThird:
    """Chooses texts."""

    def __call__(self, shard: int, num_texts: int) -> np.ndarray:
        return np.arange(0, num_texts, 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [tiny_bert(root / "bert", num_labels=2), tiny_llama_reward(root / "llama", seed=1)]


def make_work(
    tmp_path: Path, models: list[Path], load: EngineLoader = load_engine, rows: Any = None, **changes: Any
) -> Work:
    scores = ScoresConfig.model_validate({"engine": "transformers", "max_tokens": 48, "prompt_tokens": 24})
    upstream = write_corpus(tmp_path, [TEXTS, []])
    folders = [StoragePath(str(model)) for model in models]
    target = ShardedFolder(StoragePath(str(tmp_path / "target")), "target", 2)
    text_pass = TextPass(folders, token_rule(scores), upstream.shards("corpus"), target, rows, TableWriter(), scores)
    text_pass = TextPass(**{**vars(text_pass), "load": load})
    sample = pa.table({"shard": [0] * 3, "row": [0, 1, 2]})
    for column, name in enumerate(("prompt", "response")):
        sample = sample.append_column(name, pa.array([text[column] for text in TEXTS[:3]]))
    options = engine_options(scores, ActorSize(1, 0), len(models))
    reference = _reference(sample, folders, [""] * len(folders), text_pass.rule, 0.5, options)
    labels = [2, 1][: len(models)]
    return Work(
        **{
            "text_pass": text_pass,
            "digests": [""] * len(models),
            "num_labels": labels,
            "options": options,
            "most_failed": 3,
            "left_out": {},
            "sample": sample,
            "reference": reference,
            "call_tokens": 200,
        }
        | changes
    )


def expected(work: Work) -> np.ndarray:
    texts = read_texts(work.text_pass.corpus, 0)
    folders = work.text_pass.models
    sample = texts.append_column("shard", [[0] * len(texts)])
    return _reference(sample, folders, [""] * len(folders), work.text_pass.rule, 0.5, work.options)


def test_all_outputs_of_all_models_in_order_and_in_several_slices(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "ENCODED_AT_ONCE", 7)
    work, counts = make_work(tmp_path, models), Counts()
    outcome = ShardScorer(work, counts)({"shard": 0})
    assert (outcome["error"], outcome["refusal"]) == ("", "")
    table = work.text_pass.target.read("texts", 0)
    values = np.stack([table[f"output{column}"].to_numpy() for column in range(3)], axis=1)
    np.testing.assert_allclose(values, expected(work), atol=1e-4)
    assert table["row"].to_pylist() == list(range(90))
    assert table["num_tokens"].to_pylist() == [len(response.split()) for _, response in TEXTS]
    assert sum(counts.done) == 90
    assert len(counts.done) > 5
    marker = work.text_pass.target.done()[0]
    encoded = ModelEncoder(models, work.text_pass.rule).encode(read_texts(work.text_pass.corpus, 0))
    assert marker.ids_sum == 7
    assert marker.facts["tokens"] == outcome["tokens"] == encoded.tokens
    assert marker.facts["truncated"] == int(encoded.facts.truncated.sum()) > 0
    assert (marker.facts["texts"], marker.facts["failed"], marker.facts["written"]) == (90, [], 90)


def test_only_the_chosen_rows_are_computed(tmp_path: Path, models: list[Path]) -> None:
    work = make_work(tmp_path, models, rows=EveryThird())
    outcome = ShardScorer(work, Counts())({"shard": 0})
    table = work.text_pass.target.read("texts", 0)
    assert table["row"].to_pylist() == list(range(0, 90, 3))
    np.testing.assert_allclose(table["output2"].to_numpy(), expected(work)[::3, 2], atol=1e-4)
    assert outcome["texts"] == 30


def test_a_shard_without_texts_is_written_and_loads_no_engine(tmp_path: Path, models: list[Path]) -> None:
    def load(model_path: str, options: Any) -> Any:
        raise AssertionError("no text needs it")

    work = make_work(tmp_path, models, load=load)
    outcome = ShardScorer(work, Counts())({"shard": 1})
    assert (outcome["error"], outcome["texts"]) == ("", 0)
    assert len(work.text_pass.target.read("texts", 1)) == 0


def test_one_text_that_raises_costs_only_itself(tmp_path: Path, models: list[Path]) -> None:
    work = make_work(tmp_path, models, load=RaisingEngine)
    outcome = ShardScorer(work, Counts())({"shard": 0})
    assert outcome["error"] == ""
    table = work.text_pass.target.read("texts", 0)
    values = np.stack([table[f"output{column}"].to_numpy() for column in range(3)], axis=1)
    assert np.flatnonzero(np.isnan(values).all(axis=1)).tolist() == [41]
    good = np.arange(90) != 41
    np.testing.assert_allclose(values[good], expected(work)[good], atol=1e-4)
    facts = work.text_pass.target.done()[0].facts
    assert facts["failed"] == [[41, "RuntimeError: a text that this engine cannot read"]]
    assert facts["non_finite"] == 3


def test_rows_that_are_left_out_never_reach_the_engine(tmp_path: Path, models: list[Path]) -> None:
    work = make_work(tmp_path, models, load=RaisingEngine, left_out={0: [41]}, most_failed=0)
    assert ShardScorer(work, Counts())({"shard": 0})["error"] == ""
    table = work.text_pass.target.read("texts", 0)
    assert np.flatnonzero(np.isnan(table["output0"].to_numpy())).tolist() == [41]
    assert work.text_pass.target.done()[0].facts["failed"] == [[41, FAILED_BEFORE]]


def test_an_engine_that_breaks_fails_the_shard_and_writes_nothing(tmp_path: Path, models: list[Path]) -> None:
    for most_failed in (3, 1000):
        work = make_work(tmp_path / str(most_failed), models[:1], load=BrokenEngine, most_failed=most_failed)
        outcome = ShardScorer(work, Counts())({"shard": 0})
        told = "EngineBrokenError: the engine raises for a text that it has scored before: RuntimeError: the device is"
        assert outcome["error"].startswith(told)
        assert work.text_pass.target.done() == {}


def test_a_worker_with_a_broken_engine_takes_no_other_shard(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    def end(reason: str) -> None:
        ends.append(reason)
        raise SystemExit

    monkeypatch.setattr("pdray.engines.actor.end_process", end)
    scorer = ShardScorer(make_work(tmp_path, models[:1], load=BrokenEngine), Counts())
    assert scorer({"shard": 0})["error"]
    with pytest.raises(SystemExit):
        scorer({"shard": 1})
    assert "the device is gone" in ends[0]


def test_an_engine_that_never_scored_a_text_fails_the_shard(tmp_path: Path, models: list[Path]) -> None:
    """Without the comparison nothing is known that it could score."""

    class Dead(TransformersEngine):
        def score(self, token_ids: Any) -> Any:
            raise RuntimeError("no kernel image")

    work = without_sample(make_work(tmp_path, models[:1], load=Dead, most_failed=1000))
    outcome = ShardScorer(work, Counts())({"shard": 0})
    assert outcome["error"] == "EngineBrokenError: the engine raises for every text: RuntimeError: no kernel image"
    assert work.text_pass.target.done() == {}


@pytest.mark.parametrize("most_failed", [1, 1000])
def test_a_probe_tells_a_text_that_spoils_the_engine(tmp_path: Path, models: list[Path], most_failed: int) -> None:
    work = without_sample(make_work(tmp_path, models[:1], load=SpoiltEngine, most_failed=most_failed))
    ShardScorer(work, Counts()).probe(0, 0, 41)
    for start, stop in ((41, 42), (20, 60), (0, 90)):
        with pytest.raises(EngineBrokenError, match=r"error state|has scored no text yet"):
            ShardScorer(work, Counts()).probe(0, start, stop)


def test_an_engine_unlike_transformers_is_refused_before_any_shard(tmp_path: Path, models: list[Path]) -> None:
    work = make_work(tmp_path, models[:1], load=SquashedEngine)
    outcome = ShardScorer(work, Counts())({"shard": 0})
    assert "transformers in float32 and Transformers disagree: text" in outcome["refusal"]
    assert work.text_pass.target.done() == {}
    parity = (work.text_pass.target.folder / "parity.parquet").read_table()
    np.testing.assert_allclose(parity["reward"], 1 / (1 + np.exp(-parity["reference"].to_numpy())), atol=1e-4)


def test_a_clock_that_jumps_back_gives_no_negative_seconds(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    back = itertools.count(1e9, -3600)
    monkeypatch.setattr("time.time", lambda: next(back))
    work = make_work(tmp_path, models)
    outcome = ShardScorer(work, Counts())({"shard": 0})
    assert (outcome["error"], outcome["refusal"]) == ("", "")
    assert 0 < outcome["seconds"] < 600
    assert 0 < work.text_pass.target.done()[0].facts["seconds"] < 600


def test_an_exit_that_locks_up_is_ended_by_the_kernel() -> None:
    """What hangs is a handler of C's exit, after Python's own end, as in Ray's worker."""
    hang = "import ctypes; libc = ctypes.CDLL(None); libc.__cxa_atexit(libc.pause, None, None)"
    code = f"{hang}; from pdray.engines.actor import bound_exit; bound_exit(1)"
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGALRM
