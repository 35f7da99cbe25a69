"""What is told of corpora by some of their rows: every layout, whole and in part."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.pipeline import Step
from pdray.plan import chunks
from pdray.plan.corpus import CorpusFacts, corpus_facts
from pdray.schema import CorpusOutput
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from pdray.texts import text_tables


def facts(path: Path | list[str], monkeypatch: pytest.MonkeyPatch, whole: int, **corpus: Any) -> CorpusFacts:
    """What is told of files when so many bytes are read whole; a chunk is a sixteenth."""
    monkeypatch.setattr(chunks, "WHOLE_BYTES", whole)
    monkeypatch.setattr(chunks, "WHOLE_ROWS", 16 * 200)
    settings = {"corpus": {"path": path if isinstance(path, list) else str(path), **corpus}}
    config = RunConfig.model_validate(settings | {"proxies": {"base_model": "x"}})
    step: Any = Step.__new__(Step)
    object.__setattr__(step, "output", None)
    return corpus_facts(config, step)


def pairs(count: int, repeats: int = 1) -> list[dict[str, Any]]:
    """Pairs of two aspects; each prompt stands in so many neighbouring rows, with a response of its own each."""
    return [
        {
            "prompt": f"question {row // repeats} of some length",
            "chosen": f"a good answer {row} " + "word " * (row % 7),
            "rejected": "the bad answer",
            "aspect": "ab"[row % 2],
        }
        for row in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A corpus in the format that its name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=500)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


FORMATS = ("c.parquet", "c.jsonl", "c.jsonl.gz")


@pytest.mark.parametrize("name", FORMATS)
def test_a_small_corpus_is_counted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts(write(tmp_path / name, pairs(600, 3)), monkeypatch, 10**7)
    assert (found.rows, found.pairs, found.prompts, found.texts) == (600, 600, 200, 800)
    assert found.aspects == {"a": 300, "b": 300}
    assert found.exact == ("rows", "pairs", "prompts", "texts", "aspects")


@pytest.mark.parametrize("name", FORMATS)
def test_a_large_corpus_is_estimated(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts(write(tmp_path / name, pairs(20_000, 4)), monkeypatch, 200_000)
    assert found.exact == (("rows",) if name == "c.parquet" else ())
    assert found.rows == pytest.approx(20_000, rel=0.0 if name == "c.parquet" else 0.1)
    assert found.pairs == pytest.approx(found.rows, rel=0.01)
    assert found.prompts == pytest.approx(5000, rel=0.15)
    assert found.texts == pytest.approx(25_000, rel=0.15)
    assert sum(found.aspects.values()) == pytest.approx(found.pairs)
    assert found.read < found.rows
    assert bool(found.notes) is name.endswith(".gz")
    again = facts(tmp_path / name, monkeypatch, 200_000)
    assert (again.rows, again.texts) == (found.rows, found.texts)


def test_files_of_several_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in zip(FORMATS, (pairs(9000)[:3000], pairs(9000)[3000:6000], pairs(9000)[6000:]), strict=True):
        write(tmp_path / name, rows)
    found = facts(tmp_path, monkeypatch, 10**7)
    assert (found.rows, found.pairs) == (9000, 9000)
    found = facts(tmp_path, monkeypatch, 100_000)
    assert found.rows == pytest.approx(9000, rel=0.2)


def responses(prompts: int, each: int = 3) -> list[dict[str, Any]]:
    """Rated responses that differ on every aspect."""
    return [
        {"prompt": f"question {p}", "response": f"answer {p} {r}", "rating.a": r, "rating.b": -r}
        for p in range(prompts)
        for r in range(each)
    ]


def test_rated_responses_make_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.jsonl", responses(2000))
    found = facts(path, monkeypatch, 10**7, kind="rated")
    assert (found.rows, found.pairs, found.prompts, found.texts) == (6000, 6000, 2000, 6000)
    found = facts(path, monkeypatch, 100_000, kind="rated")
    assert found.pairs == pytest.approx(6000, rel=0.1)
    assert found.rated == 2


def test_responses_that_lie_apart_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = responses(2000)
    write(tmp_path / "c.jsonl", [row for start in range(3) for row in rows[start::3]])
    with pytest.raises(UserError, match=r"do not stand beside each other .* `pdray run --until corpus` first"):
        facts(tmp_path / "c.jsonl", monkeypatch, 200_000, kind="rated")
    assert facts(tmp_path / "c.jsonl", monkeypatch, 10**7, kind="rated").pairs == 6000


def test_bad_rows_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pairs(90) + [{"prompt": "q", "chosen": "", "rejected": "b", "aspect": "a"}] * 10
    found = facts(write(tmp_path / "c.jsonl", rows), monkeypatch, 10**7)
    assert (found.rows, found.pairs, found.bad) == (100, 90, {"empty field: chosen": 0.1})
    (note,) = found.notes
    assert note.startswith("bad rows (10.0% empty field: chosen) are more than corpus.max_quarantined 0.05")
    write(tmp_path / "none.jsonl", rows[90:])
    with pytest.raises(UserError, match=r"none of 10 rows that were read gave a pair \(10 empty field: chosen\)"):
        facts(tmp_path / "none.jsonl", monkeypatch, 10**7)


def test_a_hub_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig.model_validate({"corpus": {"hub": "some/set"}, "proxies": {"base_model": "x"}})
    step: Any = Step.__new__(Step)
    object.__setattr__(step, "output", None)
    with pytest.raises(UserError, match=r"corpus\.hub is some/set, and a plan reads files alone; run `pdray run"):
        corpus_facts(config, step)


def test_a_damaged_packed_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.jsonl.gz", pairs(20_000))
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 4 + 200] = bytes(200)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"c\.jsonl\.gz cannot be read"):
        facts(path, monkeypatch, 10**6)


def test_a_finished_corpus_tells_its_own_counts(tmp_path: Path) -> None:
    folder = ShardedFolder(StoragePath(str(tmp_path / "corpus")), "f", 2)
    for shard in range(2):
        prompts = [f"question {shard}", f"question {shard}", "another"]
        tables = text_tables(prompts, ["yes", "no", "perhaps"], conversational=False)
        tables["pairs"] = pa.table({"aspect": ["a", "b"], "chosen_row": [0, 1], "rejected_row": [1, 0]})
        folder.write(shard, tables, 0, {})
    output = CorpusOutput(2, 4, 6, ["a", "b"], {"a": 3, "b": 1}, False, ["a"])
    step: Any = Step.__new__(Step)
    for name, value in (("output", output), ("manifest", {"rows_in": 9}), ("folder", folder.folder)):
        object.__setattr__(step, name, value)
    object.__setattr__(step, "fingerprint", "f")
    config = RunConfig.model_validate({"corpus": {"hub": "some/set"}, "proxies": {"base_model": "x"}})
    found = corpus_facts(config, step)
    assert (found.rows, found.pairs, found.prompts, found.texts, found.rated) == (9, 4, 4, 6, 1)
    assert found.aspects == {"a": 3.0, "b": 1.0}
    assert found.exact == ("rows", "pairs", "prompts", "texts", "aspects")
    assert found.sample.to_pylist()[1] == {
        "prompt": "question 0", "chosen": "no", "rejected": "yes", "aspect": "b",
    }  # fmt: skip
    assert found.source == "the finished corpus, 2 of its 2 shards"
