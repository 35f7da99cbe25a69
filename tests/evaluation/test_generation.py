"""Prompts to answer, how a policy reads them, and parts that are generated once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.config import AlignmentConfig, EvaluationConfig, GenerationConfig
from pdray.engines.engine import EngineOptions
from pdray.engines.vllm_generation import Answer, Decoding, encoded_prompts
from pdray.errors import UserError
from pdray.evaluation import generation
from pdray.evaluation.baseline import baseline_folder
from pdray.evaluation.generation import Work, answer_parts
from pdray.evaluation.parts import Parts, key_of
from pdray.evaluation.prompts import read_prompts
from pdray.schema import MESSAGES
from pdray.storage import StoragePath

PAIRS = pa.table({"prompt": ["one", "two", "one", "", "three"]})


def prompts(pairs: pa.Table = PAIRS, seed: int = 0, **settings: Any) -> list[dict[str, Any]]:
    evaluation = EvaluationConfig(pairs="pairs.jsonl", generation=GenerationConfig(**settings))
    return read_prompts(evaluation, pairs, seed).to_pylist()


def test_the_prompts_of_held_out_pairs_are_taken_once() -> None:
    found = prompts()
    assert sorted(row["prompt"] for row in found) == ["one", "three", "two"]
    assert {row["set"] for row in found} == {None}


def test_more_prompts_keep_the_first_ones() -> None:
    pairs = pa.table({"prompt": [f"prompt {row}" for row in range(50)]})
    assert prompts(pairs)[:10] == prompts(pairs, max_prompts=10)
    assert prompts(pairs)[:10] != prompts(pairs, seed=1)[:10]
    assert prompts(pairs.take(list(reversed(range(50))))) == prompts(pairs)


def test_a_prompt_that_stands_twice_is_of_the_set_it_stands_in_first(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["x", "x"], "set": ["koala", "vicuna"]}), tmp_path / "p.parquet")
    assert prompts(prompts=str(tmp_path / "p.parquet")) == [{"prompt": "x", "set": "koala"}]


def test_a_file_brings_sets_and_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}]
    pq.write_table(
        pa.table({"prompt": pa.array([turns, None], MESSAGES), "set": ["koala", "vicuna"]}), tmp_path / "p.parquet"
    )
    assert prompts(prompts=str(tmp_path / "p.parquet")) == [{"prompt": turns, "set": "koala"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "x"}, "has no column prompt but text"),
        ({"prompt": 3}, "the column prompt of .* something else than texts"),
        ({"prompt": ""}, "holds no prompt with a text"),
        ({"prompt": "x", "set": [1]}, "the column set of .* must hold names"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=message):
        prompts(prompts=str(path))


def test_a_prompt_is_read_as_it_was_trained_on_without_an_end() -> None:
    class Tokenizer:
        bos_token_id, eos_token_id = 1, 9

        def __call__(self, texts: list[str], verbose: bool) -> dict[str, Any]:
            return {"input_ids": [[1, *map(int, text.split()), 9] for text in texts]}

    decoding = Decoding(max_tokens=4, prompt_tokens=3, temperature=0, seed=0)
    assert encoded_prompts(Tokenizer(), ["5", "5 6 7 8"], decoding) == [[1, 5], [1, 7, 8]]


def test_parts_are_whole_or_not_there(tmp_path: Path) -> None:
    parts = Parts(StoragePath(str(tmp_path / "answers")))
    table = pa.table({"text": ["a"]})
    assert parts.read("k") is None
    parts.write("k", table)
    assert parts.read("k") == table
    file = tmp_path / "answers" / "k.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content[:-8])
    assert parts.read("k") is None
    assert not file.exists()


def test_storage_that_does_not_answer_loses_no_part() -> None:
    deleted: list[str] = []

    class Away:
        def __truediv__(self, name: str) -> Away:
            return self

        def read_table(self) -> None:
            raise OSError("no answer")

        read_bytes = read_table

        def delete(self) -> None:
            deleted.append("k")

    with pytest.raises(OSError, match="no answer"):
        Parts(Away()).read("k")  # type: ignore[arg-type]
    assert deleted == []


def test_every_value_decides_a_key() -> None:
    keys = {key_of("a", "b"), key_of("ab"), key_of("a", ["b"]), key_of("b", "a"), key_of({"a": 1}), key_of({"a": 2})}
    assert len(keys) == 6
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


@dataclass
class Echo:
    """Answers with the prompt; ends its process, as it were, at one of them."""

    loaded: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    broken: str = ""

    def load(self, folder: str, options: EngineOptions, decoding: Decoding) -> Echo:
        self.loaded.append(folder)
        self.options, self.decoding = options, decoding
        return self

    def answers(self, prompts: list[Any]) -> list[Answer]:
        if self.broken in prompts:
            raise MemoryError
        self.read += prompts
        return [Answer(f"{prompt}!", 2, prompt == "b") for prompt in prompts]


def work(root: Path, echo: Echo) -> Work:
    counter = SimpleNamespace(add=echo.counted.append, working=lambda label: contextlib.nullcontext())
    options = EngineOptions("vllm", "float32", 32)
    return Work(Parts(StoragePath(str(root))), options, Decoding(8, 24, 0, 0), echo.load, counter)


def test_a_task_that_was_lost_goes_on_with_its_next_part(tmp_path: Path) -> None:
    parts = [("k1", ["a", "b"]), ("k2", ["c"]), ("k3", ["d"])]
    broken = Echo(broken="d")
    with pytest.raises(MemoryError):
        answer_parts("policy", parts, work(tmp_path, broken))
    again = Echo()
    answer_parts("policy", parts, work(tmp_path, again))
    assert (broken.read, again.read) == (["a", "b", "c"], ["d"])
    assert broken.loaded == again.loaded == ["policy"]
    assert again.counted == [2, 1, 1]
    nothing = Echo()
    answer_parts("policy", parts, work(tmp_path, nothing))
    assert nothing.loaded == []
    table = Parts(StoragePath(str(tmp_path))).read("k1")
    assert table is not None
    assert table["text"].to_pylist() == ["a!", "b!"]
    assert table["cut"].to_pylist() == [False, True]


def test_answers_are_made_once_for_what_decides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    def run_tasks(function: Any, jobs: list[Any], *limits: Any, **resources: Any) -> Iterator[tuple[int, None]]:
        groups.append(len(jobs))
        yield from enumerate(function(*job) for job in jobs)

    monkeypatch.setattr(generation, "PROMPTS_PER_PART", 2)
    for name, stand_in in (("run_tasks", run_tasks), ("find_places", lambda *words: 2), ("living_nodes", list)):
        monkeypatch.setattr(generation, name, stand_in)
    monkeypatch.setattr(generation, "node_cpus", lambda nodes: 2.0)
    counter = work(tmp_path, Echo()).counter
    progress = SimpleNamespace(note=None, counting=lambda *words, **more: contextlib.nullcontext(counter))
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)

    def made(seed: int = 0, asked: list[str] = list("abcde"), **settings: Any) -> tuple[Echo, Any]:  # noqa: B006
        section = GenerationConfig.model_validate({"max_tokens": 8, "prompt_tokens": 24} | settings)
        config = SimpleNamespace(seed=seed, evaluation=SimpleNamespace(generation=section))
        ctx: Any = SimpleNamespace(config=config, run=StoragePath(str(tmp_path)), progress=progress)
        echo = Echo()
        return echo, generation.generate(ctx, {name: str(tmp_path / name) for name in ("new", "old")}, asked, echo.load)

    echo, found = made()
    assert list(found) == ["new", "old"]
    assert [one.text for one in found["new"]] == [one.text for one in found["old"]] == ["a!", "b!", "c!", "d!", "e!"]
    assert [one.cut for one in found["old"]] == [False, True, False, False, False]
    assert sorted(echo.read) == sorted("abcde" * 2)
    assert groups == [4]  # two engines of each policy share its three parts
    assert (echo.options.max_tokens, echo.decoding) == (32, Decoding(8, 24, 0, 0))
    assert made()[0].read == []
    for changed in ({"seed": 1}, {"temperature": 0.5}, {"engine_args": {"max_num_seqs": 3}}, {"prompt_tokens": 23}):
        assert len(made(**changed)[0].read) == 10, changed
    assert made(seed=1, temperature=0.5)[0].decoding == Decoding(8, 24, 0.5, 1)
    assert sorted(made(asked=list("abxy"))[0].read) == sorted("xy" * 2)
    (tmp_path / "new" / "config.json").write_text("trained further")
    assert sorted(made()[0].read) == list("abcde")


def test_the_baseline_is_the_start_a_folder_or_a_run(tmp_path: Path) -> None:
    alignment = AlignmentConfig(policy="models/sft")
    assert baseline_folder(GenerationConfig(), alignment) == "models/sft"
    assert baseline_folder(GenerationConfig(baseline=str(tmp_path)), alignment) == str(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"config": {}, "stages": {"alignment": "alignment-00000001"}}))
    with pytest.raises(UserError, match="a run without a finished alignment; let it finish"):
        baseline_folder(GenerationConfig(baseline=str(tmp_path)), alignment)
    folder = tmp_path / "alignment-00000001"
    folder.mkdir()
    manifest = {"fingerprint": "f", "rows_out": 1, "quarantined": 0, "seconds": 1.0, "metrics": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"output": {"of another version": 1}}))
    with pytest.raises(UserError, match="a run without a finished alignment; let it finish"):
        baseline_folder(GenerationConfig(baseline=str(tmp_path)), alignment)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"output": {"policy": "alignment-00000001/policy"}}))
    assert baseline_folder(GenerationConfig(baseline=str(tmp_path)), alignment) == str(folder / "policy")


def test_a_run_of_several_rounds_is_no_baseline_and_the_sentence_names_a_round(tmp_path: Path) -> None:
    alignment, state = AlignmentConfig(policy="models/sft"), {"stages": {"alignment": "alignment-00000001"}}
    folders = [tmp_path / "rounds" / name for name in ("01", "02")]
    for folder in (tmp_path, *folders):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"config": {"rounds": 2}} | state))
    with pytest.raises(UserError, match=r"a run of several rounds, .*; name the folder of .* in .*/rounds/02$"):
        baseline_folder(GenerationConfig(baseline=str(tmp_path)), alignment)
    with pytest.raises(UserError, match="a run without a finished alignment; let it finish"):
        baseline_folder(GenerationConfig(baseline=str(folders[1])), alignment)
