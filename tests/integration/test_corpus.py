"""The corpus stage on a real Ray: formats, filesystems, bad rows, and no row lost."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import shutil
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from pdray.config import CorpusConfig
from pdray.corpus import stage
from pdray.errors import UserError
from tests.corpus.cases import lines, pairs_with_text, quarantined, rows, write_lines
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")


def build(tmp_path, name="out", **config):
    result = run_stage(stage.STAGE, tmp_path / name, corpus=CorpusConfig(**config))
    folder = tmp_path / name / "corpus-test"
    return result, pairs_with_text(folder, result), folder


def test_formats_folders_and_globs_give_the_same_pairs(tmp_path):
    data = rows(8)
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(data[:2]), source / "a.parquet")
    (source / "b.jsonl").write_bytes(lines(data[2:4]))
    (source / "deep" / "c.jsonl.gz").write_bytes(gzip.compress(lines(data[4:6])))
    (source / "d.jsonl.bz2").write_bytes(bz2.compress(lines(data[6:])))
    (source / "notes.txt").write_text("not data")
    result, table, _ = build(tmp_path, path=str(source))
    assert [row["pair_id"] for row in table.to_pylist()] == [row["pair_id"] for row in data]
    assert (result.rows_in, result.rows_out) == (8, 8)
    _, some, _ = build(tmp_path, "glob", path=[str(source / "*.jsonl"), str(source / "*.parquet")])
    assert len(some) == 4


def test_any_fsspec_filesystem_is_read(tmp_path):
    # A local server would do as well; memory:// needs none, but lives in one process, so the data goes by file here.
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines(rows(4)))
    _, table, _ = build(tmp_path, path=f"local://{source}")
    assert len(table) == 4
    assert fsspec.core.url_to_fs(f"local://{source}")[1] == str(source)


def test_uris_and_globs_name_files_once(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jsonl").write_bytes(lines(rows(4)))
    (tmp_path / "deep" / "b.jsonl").write_bytes(lines(rows(8)[4:]))
    for name, paths, count in [
        ("folder", f"file://{tmp_path}", 8),
        ("glob", f"file://{tmp_path}/*.jsonl", 4),
        ("both", [f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl"], 4),
        ("twice", f"{tmp_path}/**/**/*.jsonl", 8),
    ]:
        result, _, _ = build(tmp_path / "out", name, path=paths)
        assert (result.rows_out, result.quarantined) == (count, 0)


def test_other_columns_and_later_files_do_not_mislead(tmp_path):
    first = [row | {"messages": [{"role": "user", "content": "hi"}]} for row in rows(101)]
    later = [row | {"score_chosen.a": 2, "score_rejected.a": 1} for row in rows(110)[101:]]
    (tmp_path / "a.jsonl").write_bytes(lines(first))
    (tmp_path / "b.jsonl").write_bytes(lines(later))
    result, table, _ = build(tmp_path, path=str(tmp_path / "*.jsonl"))
    assert result.metrics["conversational"] is False
    assert len(pa.compute.drop_null(table["score_chosen.a"])) == 9


def test_a_changed_hub_folder_is_another_corpus(tmp_path):
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.Table.from_pylist(rows(4)), tmp_path / "hub" / "train.parquet")
    config = SimpleNamespace(corpus=CorpusConfig(hub=str(tmp_path / "hub")), seed=0)
    before = stage.settings(config)
    pq.write_table(pa.Table.from_pylist(rows(5)), tmp_path / "hub" / "train.parquet")
    assert stage.settings(config) != before


def test_a_copy_of_the_input_is_the_same_corpus(tmp_path):
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.jsonl").write_bytes(lines(rows(4)))

    def settings(**config):
        return stage.settings(SimpleNamespace(corpus=CorpusConfig(**config), seed=0))

    first = settings(path=str(tmp_path / "one"))
    assert settings(path=str(tmp_path / "other" / "*.jsonl"), texts_per_shard=7) == first
    shutil.copytree(tmp_path / "one", tmp_path / "aspect=x")
    named = settings(path=str(tmp_path / "aspect=x"), partition_columns=["aspect"])
    shutil.copytree(tmp_path / "one", tmp_path / "aspect=y")
    assert settings(path=str(tmp_path / "aspect=y"), partition_columns=["aspect"]) != named
    (tmp_path / "other" / "other.jsonl").write_bytes(lines(rows(5)))
    assert settings(path=str(tmp_path / "other")) != first


def test_a_hub_data_set_by_name(tmp_path):
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.Table.from_pylist(rows(4)), tmp_path / "hub" / "train.parquet")
    _, table, _ = build(tmp_path, hub=str(tmp_path / "hub"))
    assert len(table) == 4
    _, table, _ = build(tmp_path, "part", hub=str(tmp_path / "hub"), hub_split="train[25%:75%]")
    assert table["pair_id"].to_pylist() == ["p1", "p2"]
    with pytest.raises(UserError, match=r"corpus\.hub .*split 'nope' cannot be loaded"):
        build(tmp_path, "none", hub=str(tmp_path / "hub"), hub_split="nope")


def test_every_bad_row_is_quarantined_with_its_reason_and_counted(tmp_path):
    good = rows(40)
    bad = [
        ({"prompt": None}, "missing field: prompt"),
        ({"chosen": ""}, "empty field: chosen"),
        ({"chosen": "bad"}, "equal responses"),
        ({"aspect": "z"}, "unknown aspect"),
        ({"rejected": 3}, "not text: rejected"),
        ({"source": "\ud800"}, "not UTF-8: source"),
        ({"score_chosen.a": 10**400, "score_rejected.a": 1}, "rating not a number: score_chosen.a"),
    ]
    data = good + [rows(1, pair_id=f"bad{i}")[0] | change for i, (change, _) in enumerate(bad)]
    raw = (
        lines(data)
        + b"{oops\n"
        + b"[1]\n"
        + b'{"n": '
        + b"1" * 5000
        + b"}\n"
        + lines(rows(1)).replace(b"q0", b"\xff\xfe")
        + b"\n\n"
    )
    (tmp_path / "in.jsonl").write_bytes(raw)
    result, table, folder = build(tmp_path, path=str(tmp_path / "in.jsonl"), aspects=["a", "b"], max_quarantined=0.3)
    found = quarantined(folder)
    assert sorted(item["reason"] for item in found) == sorted(
        [reason for _, reason in bad] + ["not JSON", "not JSON", "not a JSON object", "not UTF-8"]
    )
    assert all(item["file"].endswith("in.jsonl") for item in found)
    assert next(item for item in found if item["reason"] == "equal responses")["row"]["pair_id"] == "bad2"
    assert (len(table), result.rows_in, result.rows_out, result.quarantined) == (40, 51, 40, 11)


def test_text_with_unusual_line_separators_stays_whole(tmp_path):
    data = rows(4)
    data[0]["chosen"] = "one\u2028two\x85three Å"
    (tmp_path / "in.jsonl").write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data).encode())
    _, table, _ = build(tmp_path, path=str(tmp_path / "in.jsonl"))
    assert table["chosen"][0].as_py() == data[0]["chosen"]


def test_bytes_that_are_not_utf8_in_parquet(tmp_path):
    table = pa.Table.from_pylist(rows(40))
    broken = pa.array([b"\xff"] + [b"fine"] * 39).view(pa.string())
    pq.write_table(table.set_column(1, "prompt", broken), tmp_path / "in.parquet")
    result, _, folder = build(tmp_path, path=str(tmp_path / "in.parquet"))
    assert [item["reason"] for item in quarantined(folder)] == ["not UTF-8: prompt"]
    assert result.rows_out == 39


def test_of_duplicate_ids_the_same_row_stays_whatever_the_order(tmp_path):
    data = rows(40, source="x") + rows(1, source="x", chosen="other") + rows(1, source="w")
    kept = []
    for attempt in range(3):
        random.Random(attempt).shuffle(data)
        source = tmp_path / f"in{attempt}"
        source.mkdir()
        for part in range(3):
            (source / f"{part}.jsonl").write_bytes(lines(data[part::3]))
        result, table, folder = build(tmp_path, f"out{attempt}", path=str(source))
        assert [item["reason"] for item in quarantined(folder)] == ["duplicate pair_id"] * 2
        assert (result.rows_in, result.rows_out, result.quarantined) == (42, 40, 2)
        kept.append(table.to_pylist())
    assert kept[0] == kept[1] == kept[2]


def test_too_many_bad_rows_stop_the_run_and_say_so(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(rows(10) + rows(1, pair_id="x", chosen="")))
    with pytest.raises(UserError, match=r"1 of 11 rows are bad \(1 empty field: chosen\).*max_quarantined \(0.05\)"):
        build(tmp_path, path=str(tmp_path / "in.jsonl"))


def test_one_aspect_is_not_enough(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(rows(4, aspect="a")))
    with pytest.raises(UserError, match="has 1 aspect"):
        build(tmp_path, path=str(tmp_path / "in.jsonl"))


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_named(tmp_path, content):
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="no readable row"):
        build(tmp_path, path=str(tmp_path / "in.jsonl"))


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    pq.write_table(pa.table({"question": ["q"], "chosen": ["a"]}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match=r"corpus\.columns\.prompt is 'prompt'.*chosen, question"):
        build(tmp_path, path=str(tmp_path / "in.parquet"))


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "in.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"in\.parquet is not a readable parquet file"):
        build(tmp_path, path=str(tmp_path / "in.parquet"))
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(lines(rows(5000)))[:-2000])
    with pytest.raises(UserError, match=r"in\.jsonl\.gz cannot be read"):
        build(tmp_path, "gz", path=str(tmp_path / "in.jsonl.gz"))


def test_conversations_keep_their_messages(tmp_path):
    talk = [{"role": "user", "content": "hi"}]
    data = [row | {"prompt": talk, "chosen": [{"role": "assistant", "content": "yes"}]} for row in rows(4)]
    (tmp_path / "in.jsonl").write_bytes(lines(data))
    result, table, _ = build(tmp_path, path=str(tmp_path / "in.jsonl"))
    assert result.metrics["conversational"] is True
    assert table["prompt"][0].as_py() == talk
    assert table["rejected"][0].as_py() == [{"role": "assistant", "content": "bad"}]


def conversation(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_the_published_layout_of_ultrafeedback(tmp_path):
    data = [row | {side: conversation(row["prompt"], row[side]) for side in ("chosen", "rejected")} for row in rows(4)]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "in.parquet")
    result, table, _ = build(tmp_path, path=str(tmp_path / "in.parquet"))
    assert table["prompt"].to_pylist() == [[{"role": "user", "content": f"q{i}"}] for i in range(4)]
    assert table["chosen"].to_pylist() == [[{"role": "assistant", "content": "good"}]] * 4
    assert table["rejected"].to_pylist() == [[{"role": "assistant", "content": "bad"}]] * 4
    assert result.metrics["repeated_prompts"] == 4
    assert "4 rows repeat the prompt in their responses; the shared turns were taken off" in result.notes
    plain, _, _ = build(tmp_path, "plain", path=str(write_lines(tmp_path, rows(4))))
    assert (plain.metrics["repeated_prompts"], plain.notes) == (0, [])


def test_rated_responses_that_repeat_the_prompt_meet_those_that_do_not(tmp_path):
    data = [
        {"prompt": f"q{i}", "response": response, "rating.x": rating, "rating.y": -rating}
        for i in range(4)
        for rating, response in enumerate([conversation(f"q{i}", "one"), "two", conversation(f"q{i}", "one")])
    ]
    result, _, _ = build(tmp_path, path=str(write_lines(tmp_path, data)), kind="rated")
    assert result.metrics["repeated_prompts"] == 8
    assert (result.rows_out, result.dropped) == (4, {"same response twice": 4})


def test_a_corpus_without_a_prompt_column_has_implicit_prompts(tmp_path):
    data = [
        {side: conversation(row["prompt"], row[side]) for side in ("chosen", "rejected")} | {"aspect": row["aspect"]}
        for row in rows(40)
    ]
    data[7]["rejected"] = conversation("another", "bad")
    result, table, folder = build(tmp_path, path=str(write_lines(tmp_path, data)))
    assert sorted(row[0]["content"] for row in table["prompt"].to_pylist()) == sorted(
        f"q{i}" for i in range(40) if i != 7
    )
    assert [item["reason"] for item in quarantined(folder)] == ["no prompt: the responses share no beginning"]
    assert any("there is no prompt column" in note for note in result.notes)
    assert result.metrics["implicit_prompt"] is True


def test_a_forgotten_prompt_column_is_no_implicit_prompt(tmp_path):
    data = [{"question": row.pop("prompt")} | row for row in rows(40)]
    path = str(write_lines(tmp_path, data))
    with pytest.raises(UserError, match=r"corpus\.columns\.prompt is 'prompt'.*question.*in 40 of 40 rows"):
        build(tmp_path, path=path)
    with pytest.raises(UserError, match=r"corpus\.columns\.prompt is 'query', which is not a column.*question"):
        build(tmp_path, "named", path=path, columns={"prompt": "query"})


def test_folder_names_do_not_replace_columns(tmp_path):
    folder = tmp_path / "prompt=1" / "aspect=z"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows(4)), folder / "x.parquet")
    _, table, _ = build(tmp_path, path=str(tmp_path / "prompt=1"))
    assert table["prompt"].to_pylist() == ["q0", "q1", "q2", "q3"]
    assert table["aspect"].to_pylist() == ["a", "b", "a", "b"]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_folder_names_are_columns_only_where_the_config_asks(tmp_path, form):
    def put(folder, data):
        (tmp_path / "in" / folder).mkdir(parents=True)
        path = tmp_path / "in" / folder / f"x.{form}"
        pq.write_table(pa.Table.from_pylist(data), path) if form == "parquet" else path.write_bytes(lines(data))

    data = [{key: value for key, value in row.items() if key != "aspect"} for row in rows(8)]
    put("prompt=1/aspect=a%20b", data[:4])
    put("prompt=2/aspect=c", data[4:])
    config = {"path": str(tmp_path / "in"), "partition_columns": ["aspect"]}
    _, table, _ = build(tmp_path, **config)
    assert table["prompt"].to_pylist() == [f"q{i}" for i in range(8)]
    assert table["aspect"].to_pylist() == ["a b"] * 4 + ["c"] * 4
    with pytest.raises(UserError, match=r"corpus\.columns\.aspect is 'aspect', which is not a column"):
        build(tmp_path, "unasked", path=config["path"])
    with pytest.raises(UserError, match=r"partition_columns names 'prompt', which is also a column of .*x\." + form):
        build(tmp_path, "both", **config | {"partition_columns": ["aspect", "prompt"]})
    with pytest.raises(UserError, match=r"partition_columns names 'kind', but .*x\..* lies in no folder kind="):
        build(tmp_path, "none", **config | {"partition_columns": ["aspect", "kind"]})


def test_a_late_row_with_a_column_of_the_folder_is_set_aside(tmp_path):
    for aspect in "ab":
        (tmp_path / f"aspect={aspect}").mkdir()
        data = [{key: value for key, value in row.items() if key != "aspect"} for row in rows(120)]
        data = [row | {"pair_id": aspect + row["pair_id"]} for row in data]
        data[110]["aspect"] = "z"
        (tmp_path / f"aspect={aspect}" / "x.jsonl").write_bytes(lines(data))
    result, _, folder = build(tmp_path, path=str(tmp_path / "aspect=*" / "x.jsonl"), partition_columns=["aspect"])
    assert result.rows_out == 238
    assert [item["reason"] for item in quarantined(folder)] == ["also in the folder name: aspect"] * 2


def test_rated_pairs_and_rated_responses_become_one_aspect_pairs(tmp_path):
    pairs = [
        {
            "prompt": f"q{i}",
            "response_a": "A",
            "response_b": "B",
            "score_a.x": i,
            "score_b.x": 2,
            "score_a.y": 1,
            "score_b.y": 5,
        }
        for i in range(20)
    ]
    pairs.append(pairs[0] | {"prompt": "same", "score_a.x": 2, "score_b.y": 1})
    (tmp_path / "pairs.jsonl").write_bytes(lines(pairs))
    result, table, _ = build(tmp_path, path=str(tmp_path / "pairs.jsonl"), kind="rated")
    assert (result.rows_in, result.rows_out, result.dropped) == (21, 20, {"equal on every aspect": 1})
    for row in table.to_pylist():
        assert row[f"score_chosen.{row['aspect']}"] > row[f"score_rejected.{row['aspect']}"]
    assert set(table["conflict"].to_pylist()) <= {True, False}

    responses = [{"prompt": f"q{i % 4}", "response": f"r{i}", "help": i, "truth": -i} for i in range(12)]
    (tmp_path / "responses.jsonl").write_bytes(lines(responses))
    columns = {"ratings": {"helpfulness": "help", "truthfulness": "truth"}}
    result, table, _ = build(tmp_path, "r", path=str(tmp_path / "responses.jsonl"), kind="rated", columns=columns)
    assert result.rows_out == 4 * 3
    assert table["conflict"].to_pylist() == [True] * 12


def test_every_rated_response_is_in_a_pair_or_counted(tmp_path):
    responses = [{"prompt": f"q{i}", "response": "r", "rating.x": 1, "rating.y": 2} for i in range(5)]
    responses += [{"prompt": "q0", "response": text, "rating.x": 3, "rating.y": 1} for text in ("s", "s", "t")]
    responses += [{"prompt": "q0", "response": "", "rating.x": 3, "rating.y": 1}]
    (tmp_path / "in.jsonl").write_bytes(lines(responses))
    result, _, _ = build(tmp_path, path=str(tmp_path / "in.jsonl"), kind="rated", max_quarantined=0.12)
    assert result.metrics["responses_read"] == 9
    assert result.rows_out == 2
    assert result.quarantined == 1
    assert result.dropped == {
        "equal on every aspect": 1,
        "only response to its prompt": 4,
        "same response twice": 1,
    }
    assert result.rows_in == 9
    with pytest.raises(UserError, match="1 of 9 rows are bad"):
        build(tmp_path, "strict", path=str(tmp_path / "in.jsonl"), kind="rated", max_quarantined=0.11)
    (tmp_path / "single.jsonl").write_bytes(lines(responses[1:5]))
    with pytest.raises(UserError, match=r"none of 4 rows gave a pair \(4 only response to its prompt\)"):
        build(tmp_path, "single", path=str(tmp_path / "single.jsonl"), kind="rated")
