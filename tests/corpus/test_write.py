"""One shard: texts once, pairs by row number, duplicates settled, bad rows aside, the same bytes in any order."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pdray.corpus.duplicates import find_losers, placed_schema
from pdray.corpus.report import add_up
from pdray.corpus.rows import RowRules
from pdray.corpus.stage import _licenses
from pdray.corpus.write import ShardTask, write_shards
from pdray.errors import UserError
from pdray.schema import pairs_schema, prompts_schema, texts_schema
from pdray.shards import ShardedFolder
from pdray.texts import read_texts
from tests.corpus.cases import checked, files_of, quarantined, rows, sharded

RULES = RowRules({})
RATED = RowRules({}, ratings={"a": ("x", "y"), "b": ("x", "y")})
COUNTER = SimpleNamespace(add=lambda count: None, working=contextlib.nullcontext)


def write(folder, data, rules=RULES, num_shards=1):
    """Write rows that already know their shard; a herald for every shard is among them."""
    schema = placed_schema(rules)
    heralds = [{"shard": shard} for shard in range(num_shards)]
    table = pa.Table.from_pylist(heralds + data, schema=schema)
    shards = sharded(folder, num_shards)
    spans = np.array([4.0, 4.0]) if rules.ratings else np.empty(0)
    outcome = write_shards(table, ShardTask(shards, rules, spans, COUNTER)).to_pylist()
    return shards, outcome


def placed(data, shard=0):
    return [row | {"shard": shard} for row in checked(data)]


def test_texts_stand_once_sorted_and_pairs_name_them(tmp_path):
    data = [
        rows(1, pair_id="2", prompt="q", chosen="B", rejected="A")[0],
        rows(1, pair_id="1", prompt="q", chosen="A", rejected="C", aspect="b", source="s")[0],
        rows(1, pair_id="3", prompt="p", chosen="A", rejected="B")[0],
    ]
    shards, outcome = write(tmp_path, placed(data))
    assert outcome == [{"shard": 0, "error": None}]
    texts, pairs = read_texts(shards, 0), shards.read("pairs", 0)
    assert shards.read("prompts", 0).to_pylist() == [{"prompt": "p"}, {"prompt": "q"}]
    assert shards.read("prompts", 0).schema.equals(prompts_schema(False))
    assert shards.read("texts", 0).schema.equals(texts_schema(False))
    assert shards.read("texts", 0)["prompt_row"].to_pylist() == [0, 0, 1, 1, 1]
    assert pairs.schema.equals(pairs_schema([]))
    assert texts.to_pylist() == [
        {"prompt": prompt, "response": response} for prompt, response in ["pA", "pB", "qA", "qB", "qC"]
    ]
    assert pairs.drop_columns(["overall"]).to_pylist() == [
        {"pair_id": "1", "aspect": "b", "chosen_row": 2, "rejected_row": 4, "source": "s"},
        {"pair_id": "2", "aspect": "a", "chosen_row": 3, "rejected_row": 2, "source": None},
        {"pair_id": "3", "aspect": "a", "chosen_row": 0, "rejected_row": 1, "source": None},
    ]
    facts = shards.done()[0].facts
    assert (facts["rows"], facts["pairs"], facts["texts"], facts["aspects"]) == (3, 3, 5, {"a": 2, "b": 1})


def test_pairs_with_an_overall_preference_are_counted(tmp_path):
    data = [row | {"overall": label} for row, label in zip(rows(4), ["chosen", "rejected", "equal", None], strict=True)]
    shards, _ = write(tmp_path, placed(data))
    assert add_up(shards.done().values()).preferred == 2


def test_licences_are_kept_for_each_pair_and_summed_up(tmp_path):
    data = [row | {"license": name} for row, name in zip(rows(4), ["mit", "cc0-1.0", "mit", None], strict=True)]
    shards, _ = write(tmp_path / "with", placed(data), replace(RULES, licensed=True))
    table = shards.read("pairs", 0)
    assert table.schema.equals(pairs_schema([], licensed=True))
    assert table["license"].to_pylist() == ["mit", "cc0-1.0", "mit", None]
    assert add_up([*shards.done().values()] * 2).licenses == {"mit": 4, "cc0-1.0": 2, "unknown": 2}
    shards, _ = write(tmp_path / "without", placed(rows(4)))
    assert "license" not in shards.read("pairs", 0).column_names and "licenses" not in shards.done()[0].facts


def test_of_very_many_licences_the_commonest_are_named():
    counts = Counter({f"licence {number:03}": number + 1 for number in range(103)})
    told = _licenses(counts)
    assert len(told) == 101 and told["other licences"] == 1 + 2 + 3 and "licence 002" not in told
    assert _licenses(Counter(mit=3)) == {"mit": 3}


def test_conversations_keep_their_type(tmp_path):
    def say(role, text):
        return [{"role": role, "content": text}]

    data = rows(1, prompt=say("user", "q"), chosen=say("assistant", "x"), rejected=say("assistant", "y"))
    shards, _ = write(tmp_path, placed(data), RowRules({}, conversational=True))
    texts = shards.read("texts", 0)
    assert texts.schema.equals(texts_schema(True))
    assert texts["response"].to_pylist() == [say("assistant", "x"), say("assistant", "y")]


@pytest.mark.parametrize("conversational", [False, True])
def test_what_repeats_has_a_dictionary_and_texts_have_none(tmp_path, conversational):
    texts = {side: [{"role": "user", "content": side}] for side in ("prompt", "chosen", "rejected")}
    data = rows(1, **texts) if conversational else rows(1)
    shards, _ = write(tmp_path, placed(data), RowRules({}, conversational=conversational))
    plain = set()
    for table in ("prompts", "texts", "pairs"):
        with shards.table(table, 0).open_parquet() as file:
            leaves = [file.metadata.row_group(0).column(leaf) for leaf in range(file.metadata.num_columns)]
        plain |= {leaf.path_in_schema for leaf in leaves if "RLE_DICTIONARY" not in leaf.encodings}
    contents = {f"{side}.list.element.content" for side in ("prompt", "response")}
    assert plain == {"pair_id"} | (contents if conversational else {"prompt", "response"})


def test_a_shard_without_a_row_is_written_too(tmp_path):
    shards, outcome = write(tmp_path, placed(rows(2), shard=1), RATED, num_shards=3)
    assert [one["shard"] for one in outcome] == [0, 1, 2]
    assert sorted(shards.done()) == [0, 1, 2]
    assert [len(shards.read("pairs", shard)) for shard in range(3)] == [0, 2, 0]
    assert shards.read("texts", 2).schema.equals(texts_schema(False))
    assert shards.read("pairs", 2).schema.equals(pairs_schema(["a", "b"]))
    assert not (tmp_path / "quarantine").exists()


def test_rows_in_any_order_give_the_same_bytes(tmp_path):
    data = rows(60) + rows(20, chosen="other") + rows(20, source="x") + rows(5)
    data = placed([row | {"score_chosen.a": 2.0, "score_rejected.a": 1.0} for row in data])
    data += [{"reason": "not JSON", "raw": json.dumps({"line": str(i)}), "place": 1, "shard": 0} for i in range(5)]
    found = []
    for attempt in range(3):
        order = np.random.default_rng(attempt).permutation(len(data))
        write(tmp_path / str(attempt), [data[i] for i in order], RATED)
        found.append(files_of(tmp_path / str(attempt)))
    assert len(found[0]) == 5
    assert found[0] == found[1] == found[2]


def test_of_one_id_the_same_row_stays_and_a_loser_of_another_shard_goes(tmp_path):
    data = placed(rows(3) + rows(1, chosen="other") + rows(1))
    lost = [{"pair_id": "p2", "shard": 0}]
    shards, _ = write(tmp_path, data + lost)
    assert shards.read("pairs", 0)["pair_id"].to_pylist() == ["p0", "p1"]
    assert [row["reason"] for row in quarantined(tmp_path)] == ["duplicate pair_id"] * 3
    assert sorted(row["row"]["pair_id"] for row in quarantined(tmp_path)) == ["p0", "p0", "p2"]
    facts = shards.done()[0].facts
    assert (facts["rows"], facts["pairs"], facts["reasons"]) == (5, 2, {"duplicate pair_id": 3})


def test_losers_are_found_across_shards_only():
    narrow = pa.table(
        {
            "pair_id": ["a", "a", "a", "b", "b", "c"],
            "content": ["2", "1", "0", "9", "8", "5"],
            "shard": pa.array([0, 1, 1, 4, 4, 4], pa.int32()),
        }
    )
    schema = placed_schema(RATED)
    found = find_losers(narrow, schema, pa.array([0, 1, 4], pa.int32()))
    assert found.schema.equals(schema)
    assert found.select(["pair_id", "shard"]).to_pylist() == [{"pair_id": "a", "shard": 0}]
    assert found["place"].null_count == 1
    assert len(find_losers(narrow, schema, pa.array([1, 4], pa.int32()))) == 0


def test_conflict_uses_the_spans_of_the_whole_corpus(tmp_path):
    data = rows(1, **{"score_chosen.a": 2.0, "score_rejected.a": 1.0, "score_chosen.b": 1.0, "score_rejected.b": 2.0})
    unknown = rows(2, **{"score_chosen.a": 2.0, "score_rejected.a": 1.0})[:1]
    unknown[0]["pair_id"] = "x"
    shards, _ = write(tmp_path, placed(data + unknown), RATED)
    assert shards.read("pairs", 0)["conflict"].to_pylist() == [True, None]
    facts = shards.done()[0].facts
    assert (facts["in_conflict"], facts["judged"]) == (1, 1)


def test_a_shard_that_fails_says_why_and_the_others_are_written(tmp_path, monkeypatch):
    written = ShardedFolder.write

    def fail_on_shard_0(self, shard, *args, **kwargs):  # a fake for a disk that is full in the middle
        if shard == 0:
            raise OSError(28, "No space left on device")
        return written(self, shard, *args, **kwargs)

    monkeypatch.setattr("pdray.shards.ShardedFolder.write", fail_on_shard_0)
    shards, outcome = write(tmp_path, [], num_shards=2)
    assert "No space left on device" in outcome[0]["error"]
    assert outcome[1]["error"] is None
    assert list(shards.done()) == [1]


def test_a_mistake_of_the_user_is_raised(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise UserError("no space")

    monkeypatch.setattr("pdray.shards.ShardedFolder.write", refuse)
    with pytest.raises(UserError, match="no space"):
        write(tmp_path, placed(rows(1)))
