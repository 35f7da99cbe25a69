"""Whole builds from files in the published layouts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pdray.builders.build import build, tell
from pdray.builders.catalogue import NAMES
from pdray.builders.draw import FEW, TIE
from pdray.builders.layouts import LABEL_AGAINST_SCORES
from pdray.builders.units import NO_TEXT
from pdray.cli import main
from pdray.cli.data import DATA_SETS
from pdray.corpus.conflict import conflicts
from pdray.errors import UserError
from tests.builders import published
from tests.builders.published import write_lines


def built(tmp_path, name, rows, out="out", **options):
    path = write_lines(tmp_path / f"{name}.jsonl", rows)
    manifest = build(name, str(tmp_path / out), [path], **options)
    table = pa.concat_tables([pq.read_table(tmp_path / out / file) for file in manifest["files"]])
    assert manifest["prompts_read"] == manifest["pairs"] + sum(manifest["dropped"].values())
    assert len(table) == manifest["pairs"]
    return manifest, table


def dropped(manifest):
    return {reason: count for reason, count in manifest["dropped"].items() if count}


def share_in_conflict(table, aspects):
    """As the corpus stage counts it."""
    scores = {
        side: np.stack([table[f"score_{side}.{aspect}"].to_numpy() for aspect in aspects], axis=1)
        for side in ("chosen", "rejected")
    }
    both = np.concatenate(list(scores.values()))
    own = np.array([aspects.index(aspect) for aspect in table["aspect"].to_pylist()])
    return np.mean(conflicts(scores["chosen"] - scores["rejected"], own, np.nanmax(both, 0) - np.nanmin(both, 0)))


@pytest.mark.parametrize("level", [0.1, 0.2, 0.3])
def test_ultrafeedback_at_a_level(tmp_path, level):
    rows = published.ultrafeedback(3000)
    manifest, table = built(tmp_path, "ultrafeedback", rows, conflict=level)
    aspects = sorted(published.ULTRAFEEDBACK_ASPECTS)
    assert abs(share_in_conflict(table, aspects) - level) <= 0.005
    assert manifest["conflict"] == share_in_conflict(table, aspects)
    assert manifest["rows_read"] == 3000
    assert set(dropped(manifest)) >= {TIE}
    assert sum(manifest["ratings_not_given"].values()) > 100
    assert set(table["license"].to_pylist()) == {"mit"}
    assert set(table["source"].to_pylist()) == {
        f"openbmb/UltraFeedback/{subset}" for subset in ("evol_instruct", "flan_v2_cot", "sharegpt")
    }
    assert sum(one["pairs"] for one in manifest["sources"].values()) == manifest["licenses"]["mit"] == len(table)
    assert yaml.safe_load((tmp_path / "out" / "manifest.yaml").read_text()) == manifest
    counts = [one["pairs"] for one in manifest["aspects"].values()]
    assert min(counts) > 0.6 * max(counts)


def test_labels_are_even_where_fewer_pairs_are_asked_for(tmp_path):
    manifest, _ = built(tmp_path, "ultrafeedback", published.ultrafeedback(1500), conflict=0.2, pairs=400)
    assert {one["pairs"] for one in manifest["aspects"].values()} == {100}
    assert {one["conflict"] for one in manifest["aspects"].values()} == {0.2}


def test_a_build_depends_on_the_seed_and_not_on_files_or_order(tmp_path):
    rows = published.ultrafeedback(400)
    first, table = built(tmp_path, "ultrafeedback", rows, conflict=0.3)
    again, _ = built(tmp_path, "ultrafeedback", rows, "again", conflict=0.3)
    assert first["digest"] == again["digest"]
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows[:150])))
    pq.write_table(pa.Table.from_pylist(rows[:149:-1]), folder / "a.parquet")
    split = build("ultrafeedback", str(tmp_path / "split"), [str(folder)], conflict=0.3)
    parts = pa.concat_tables([pq.read_table(tmp_path / "split" / file) for file in split["files"]])
    assert parts.sort_by("pair_id").equals(table.sort_by("pair_id"))
    other, _ = built(tmp_path, "ultrafeedback", rows, "other", conflict=0.3, seed=1)
    assert other["digest"] != first["digest"]


def test_overall_score_is_not_read(tmp_path):
    def row(score):
        texts = [("good", "5"), ("bad", "1")]
        ratings = [(text, dict.fromkeys(published.ULTRAFEEDBACK_ASPECTS, rating)) for text, rating in texts]
        return published.ultrafeedback_row("q", [published.completion(*one, overall_score=score) for one in ratings])

    _, table = built(tmp_path, "ultrafeedback", [row(10.0) | {"instruction": f"q{i}"} for i in range(4)])
    assert table["chosen"].to_pylist() == ["good"] * 4
    assert table["overall"].to_pylist() == ["chosen"] * 4
    absent = [row("nonsense") | {"instruction": f"q{i}"} for i in range(4)]
    assert built(tmp_path, "ultrafeedback", absent, "absent")[1]["chosen"].to_pylist() == ["good"] * 4


def test_the_cleaned_ultrafeedback_has_one_aspect(tmp_path):
    rows = [published.ultrafeedback_cleaned(f"q{i}", "yes", "no", (4.5, 4.5 if i == 3 else 2.0)) for i in range(4)]
    manifest, table = built(tmp_path, "ultrafeedback-cleaned", rows)
    assert dropped(manifest) == {TIE: 1}
    assert table.select(["prompt", "chosen", "rejected", "aspect", "source"]).to_pylist()[0] == {
        "prompt": "q0",
        "chosen": "yes",
        "rejected": "no",
        "aspect": "overall",
        "source": "argilla/ultrafeedback-binarized-preferences-cleaned/sharegpt",
    }
    assert "one aspect alone" in tell(manifest)


@pytest.mark.parametrize("name", ["helpsteer", "helpsteer2"])
def test_helpsteer_has_the_responses_of_a_prompt_in_neighbouring_rows(tmp_path, name):
    rows = [published.helpsteer(f"q{i}", f"r{i}{j}", *[j + i % 2] * 5) for i in range(6) for j in range(3)]
    rows += [published.helpsteer("alone", "r", 1, 2, 3, 4, 0), published.helpsteer(" ", "r", 1, 2, 3, 4, 0)]
    manifest, table = built(tmp_path, name, rows)
    assert (manifest["rows_read"], manifest["prompts_read"], manifest["pairs"]) == (20, 8, 6)
    assert dropped(manifest) == {FEW: 1, NO_TEXT: 1}
    assert manifest["licenses"] == {"cc-by-4.0": 6}
    assert manifest["conflict"] == 0
    assert table.schema.field("score_chosen.verbosity").type == pa.float64()


def test_helpsteer2_writes_conversations_as_one_text(tmp_path):
    prompt = "c#\n<extra_id_1>Assistant\nA language.\n<extra_id_1>User\nWhat else?"
    rows = [published.helpsteer(prompt, text, *[rating] * 5) for rating, text in enumerate(["Nothing.", "A note."])]
    _, table = built(tmp_path, "helpsteer2", rows)
    assert table["prompt"].to_pylist() == [
        [
            {"role": "user", "content": "c#"},
            {"role": "assistant", "content": "A language."},
            {"role": "user", "content": "What else?"},
        ]
    ]
    assert table["chosen"].to_pylist() == [[{"role": "assistant", "content": "A note."}]]


def test_helpsteer3_prefers_the_second_response_where_the_number_is_positive(tmp_path):
    turns = [{"role": "user", "content": "hi"}]
    rows = [published.helpsteer3(turns, f"one{p}", f"two{p}", p) for p in range(-3, 4)]
    manifest, table = built(tmp_path, "helpsteer3", rows)
    assert dropped(manifest) == {TIE: 1}
    assert [row[0]["content"] for row in table["chosen"].to_pylist()] == [
        "one-3",
        "one-2",
        "one-1",
        "two1",
        "two2",
        "two3",
    ]
    assert table["score_chosen.overall"].to_pylist() == [3, 2, 1, 1, 2, 3]
    assert set(table["score_rejected.overall"].to_pylist()) == {0}
    assert set(table["source"].to_pylist()) == {"nvidia/HelpSteer3/general"}


def test_pku_saferlhf_conflicts_where_the_safer_response_is_not_the_better_one(tmp_path):
    rows = [published.pku_saferlhf(f"q{i}", i % 2, (i // 2) % 2) for i in range(80)]
    manifest, table = built(tmp_path, "pku-saferlhf", rows, conflict=0.3)
    assert abs(manifest["conflict"] - 0.3) <= 0.005
    for row in table.to_pylist():
        answers = {
            name: "yes" if (int(row["prompt"][1:]) // d) % 2 == 0 else "no"
            for name, d in (("helpfulness", 1), ("safety", 2))
        }
        assert row["chosen"] == answers[row["aspect"]]
    assert manifest["licenses"] == {"cc-by-nc-4.0": manifest["pairs"]}


def test_shp_prefers_a_where_the_label_is_one(tmp_path):
    rows = [published.shp(f"q{i}", "A", "B", (9, 2) if i % 2 else (2, 9), i % 2) for i in range(4)]
    rows.append(published.shp("q9", "A", "B", (9, 2), 0))
    manifest, table = built(tmp_path, "shp", rows)
    assert table["chosen"].to_pylist() == ["B", "A", "B", "A"]
    assert dropped(manifest) == {LABEL_AGAINST_SCORES: 1}
    assert manifest["licenses"] == {"reddit-api-terms": 4}


def test_rated_data_of_any_names(tmp_path):
    rows = [{"q": f"q{i // 2}", "a": f"a{i}", "h": i % 2, "s": 1 - i % 2, "from": "here"} for i in range(40)]
    columns = {"prompt": "q", "response": "a", "rating.help": "h", "rating.safe": "s", "source": "from"}
    manifest, table = built(tmp_path, "rated", rows, columns=columns, license="cc0-1.0")
    assert manifest["conflict"] == 1
    assert (set(table["source"].to_pylist()), manifest["licenses"]) == ({"rated/here"}, {"cc0-1.0": 20})
    both = [
        {"prompt": f"q{i}", "one": "1", "two": "2", "score_a.x": 1, "score_b.x": 2, "score_a.y": 1, "score_b.y": 2}
        for i in range(9)
    ]
    manifest, table = built(tmp_path, "rated", both, "pairs", columns={"response_a": "one", "response_b": "two"})
    assert (manifest["conflict"], set(table["chosen"].to_pylist()), manifest["licenses"]) == (0, {"2"}, {"unknown": 9})


@pytest.mark.parametrize("late", [{"rating.c": 1}, {"score_a.c": 1}, {"source": "web"}])
def test_what_no_first_row_has_is_not_left_out(tmp_path, late):
    rows = [{"prompt": f"q{i // 2}", "response": f"a{i}", "rating.a": i % 2, "rating.b": 1} for i in range(150)]
    (name,) = late
    with pytest.raises(UserError, match=rf"rated\.jsonl, row 121: {name} is in none of the first rows, .*null where"):
        built(tmp_path, "rated", [*rows[:120], *(row | late for row in rows[120:])])
    assert not (tmp_path / "out").exists()
    assert built(tmp_path, "rated", [rows[0] | late, *rows[1:]])[0]["rows_read"] == 150


def test_a_column_of_rated_data_is_one_thing(tmp_path):
    rows = [{"prompt": "q", "response": f"a{i}", "rating.a": i, "rating.b": -i} for i in range(2)]
    with pytest.raises(UserError, match=r"the column 'response' would be two things of a row; .*--column"):
        built(tmp_path, "rated", rows, columns={"prompt": "response"})


def test_a_pair_that_stands_there_twice_counts_once(tmp_path):
    rows = [published.pku_saferlhf(f"q{i % 5}", 0, 0) for i in range(8)]
    manifest, _ = built(tmp_path, "pku-saferlhf", rows)
    assert (manifest["pairs"], dropped(manifest)) == (5, {"same pair twice": 3})


UF = published.ultrafeedback(3)
PKU = [published.pku_saferlhf(f"q{i}", 0, 0) for i in range(60)]
HS = [published.helpsteer("q", "a", 1, 2, 3, 4, "good"), published.helpsteer("q", "b", 1, 2, 3, 4, 0)]
UNANNOTATED = [published.ultrafeedback_row("q", [{"response": "a"}, {"response": "b"}])]
ODD = [published.ultrafeedback_row("q", [published.completion("a", {"honesty": "five"})])]


@pytest.mark.parametrize(
    ("name", "rows", "options", "sentence"),
    [
        ("helpsteer", UF, [], "no column prompt, response, coherence, complexity, correctness, helpfulness, verbosity"),
        ("helpsteer", UF, [], "these are columns of pdray data ultrafeedback"),
        ("shp", [{"x": 1}], [], "the input has no column history, human_ref_A"),
        ("helpsteer", HS, [], "helpsteer.jsonl, row 1: verbosity is 'good', but a rating is a number or N/A"),
        ("ultrafeedback", ODD, [], "row 1: annotations.honesty.Rating is 'five', but a rating is a number or N/A"),
        ("ultrafeedback", UNANNOTATED, [], "row 1: a completion has no annotations"),
        ("ultrafeedback", [UF[0] | {"completions": "none"}], [], "row 1: completions is no list of objects"),
        ("ultrafeedback", [UF[0] | {"instruction": 7}], [], "row 1: instruction is 7, but a text is needed there"),
        ("ultrafeedback", [UF[0] | {"instruction": "\ud83d"}], [], "row 1: instruction holds half a character"),
        ("ultrafeedback", [UF[0] | {"completions": []}], [], f"none of 1 prompts gave a pair (1 {FEW})"),
        ("pku-saferlhf", [PKU[0] | {"safer_response_id": 2}], [], "safer_response_id is 2, but it names a response"),
        ("pku-saferlhf", PKU, ["--conflict", "0.1"], "--conflict 0.1 cannot be met to within half a percentage point"),
        ("pku-saferlhf", PKU, ["--conflict", "10"], "--conflict is 10, but a share lies between 0 and 1"),
        ("pku-saferlhf", PKU, ["--pairs", "61"], "the data gives 60 pairs, but --pairs is 61; lower it"),
        ("pku-saferlhf", PKU, ["--pairs", "0"], "--pairs is 0, but at least one pair is needed"),
        ("pku-saferlhf", PKU, ["--column", "prompt=x"], "the columns of pku-saferlhf are known; leave it out"),
        ("shp", [published.shp("q", "A", "B", (1, 2), 0)], ["--conflict", "0.1"], "shp rates one aspect"),
        ("rated", [{"prompt": "q", "response": "a"}], [], "no ratings are among the columns prompt, response;"),
        ("rated", PKU, ["--column", "better=x"], "--column better=… names nothing that rated data has"),
        ("rated", PKU, ["--column", "prompt"], "--column prompt names no column of yours; write it as OURS=YOURS"),
        ("rated", PKU, ["--column", "rating.x=y"], "the input has no column response, y, which rated has; map"),
        ("ultrafeedback", [], [], "the input holds no rows; give files with some"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path, capsys, name, rows, options, sentence):
    path = write_lines(tmp_path / f"{name}.jsonl", rows)
    assert main(["data", name, "--input", path, "--out", str(tmp_path / "out"), *options]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and sentence in told[0]
    assert [one.name for one in tmp_path.iterdir()] == [f"{name}.jsonl"]


def test_places_that_are_wrong(tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", UF)
    (tmp_path / "file").touch()
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(b"{}"))
    for words, sentence in [
        (["--out", str(tmp_path), "--input", path], "holds something already; name a new or an empty folder"),
        (["--out", str(tmp_path / "file"), "--input", path], "holds something already"),
        (["--out", str(tmp_path / "file" / "x"), "--input", path], "cannot write to"),
        (["--out", "s3://bucket/x", "--input", path], "but it is written to a local disk"),
        (["--out", str(tmp_path / "x"), "--input", str(tmp_path / "*.parquet")], "--input matches no file"),
        (
            ["--out", str(tmp_path / "x"), "--input", str(tmp_path / "packed.jsonl")],
            "or give --input the other files alone",
        ),
        (["--out", str(tmp_path / "x")], "openbmb/UltraFeedback (split train) cannot be loaded from the hub"),
    ]:
        assert main(["data", "ultrafeedback", *words]) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1 and sentence in told[0] and "corpus.path" not in told[0]
    assert "name them with --input" in told[0]


def test_broken_lines_are_named(tmp_path, capsys):
    lines = [json.dumps(row) for row in UF] + ["{"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert main(["data", "ultrafeedback", "--input", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "x")]) == 2
    assert "in.jsonl, row 4: not JSON; mend the row, or take it out" in capsys.readouterr().err


def test_the_command_tells_where_every_row_went(tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", PKU)
    assert main(["data", "pku-saferlhf", "--input", path, "--out", str(tmp_path / "x"), "--pairs", "50"]) == 0
    told = capsys.readouterr().out
    assert "60 rows read, which hold 60 prompts with their responses: 50 pairs written, 10 dropped" in told
    assert "10  left out, more than --pairs" in told
    assert "50 pairs, 0.0% of them in conflict; labelled by helpfulness 25, safety 25" in told
    assert "50 pairs under the licence cc-by-nc-4.0" in told


def test_the_command_knows_every_data_set():
    assert DATA_SETS == NAMES


def test_no_file_is_left_half_written(tmp_path):
    folder = Path(tmp_path / "out")
    folder.mkdir()
    built(tmp_path, "pku-saferlhf", PKU)
    assert sorted(one.name for one in folder.iterdir()) == ["manifest.yaml", "pairs-00000.parquet"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "pku-saferlhf.jsonl"]
