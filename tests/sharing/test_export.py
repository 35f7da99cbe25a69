"""The kept pairs as a data set: what is written, that others read it, and what is refused."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pdray.builders.build import build
from pdray.cli import main
from pdray.errors import UserError
from pdray.report.tables import PairColumns, PairTables
from pdray.sharing import files
from pdray.sharing.export import export
from tests.report.cases import edit_manifest, folder_of
from tests.sharing.cases import finished_run, text_of
from tests.test_yaml import bomb


def read(folder: Path, split: str = "train") -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob(f"data/{split}-*.parquet")))


def front(folder: Path) -> tuple[dict, str]:
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_every_kept_pair_with_its_divergence_and_source(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    done = export(made.run.uri, tmp_path / "out")
    table = read(tmp_path / "out")
    kept = [row for row in range(60) if made.kept[row]]
    assert table.column_names == ["pair_id", "prompt", "chosen", "rejected", "aspect", "source", "pd"]
    assert table["pair_id"].to_pylist() == [made.ids[row] for row in kept]
    assert table["pd"].to_pylist() == [made.divergence[row] for row in kept]
    assert table["source"].to_pylist() == [made.source[row] for row in kept]
    assert table["chosen"].to_pylist() == [text_of(row, {}, False)[1] for row in kept]
    assert done.pairs == {"train": 18}
    assert done.folder == tmp_path / "out"
    assert done.sources == Counter(made.source[row] for row in kept)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_other_libraries_load_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from trl.data_utils import is_conversational

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    chat = {
        0: tuple(
            [{"role": role, "content": text}] for role, text in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
        )
    }
    made = finished_run(tmp_path / "run", texts=chat)
    export(made.run.uri, tmp_path / "out", test=0.3)
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert set(found) == {"train", "test"}
    assert found["train"].num_rows + found["test"].num_rows == 18
    assert is_conversational(found["train"][0])


@pytest.mark.parametrize("test", [0.2, 0.5])
def test_a_prompt_is_in_one_split_whatever_the_shards(tmp_path: Path, test: float) -> None:
    splits = []
    for shards in (1, 3):
        made = finished_run(tmp_path / f"run{shards}", pairs=400, shards=shards)
        export(made.run.uri, tmp_path / f"out{shards}", test=test)
        tables = [read(tmp_path / f"out{shards}", split) for split in ("train", "test")]
        assert sum(map(len, tables)) == 120
        train, held_out = (set(table["prompt"].to_pylist()) for table in tables)
        assert not train & held_out
        assert len(held_out) / len(train | held_out) == pytest.approx(test, abs=0.15)
        splits.append(sorted(held_out))
    assert splits[0] == splits[1]


def test_json_lines_in_files_of_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 200)
    first = int(finished_run(tmp_path / "draw").divergence.argmin())
    made = finished_run(tmp_path / "run", texts={first: ("été\n", "a", "b")})
    export(made.run.uri, tmp_path / "out", "jsonl")
    paths = sorted((tmp_path / "out" / "data").iterdir())
    assert [path.name for path in paths] == [f"train-{number:05d}.jsonl" for number in range(3)]
    lines = [line for path in paths for line in path.read_text("utf-8").splitlines()]
    assert sum('"été\\n"' in line for line in lines) == 1
    rows = [json.loads(line) for line in lines]
    assert [row["pair_id"] for row in rows] == [made.ids[row] for row in range(60) if made.kept[row]]
    assert front(tmp_path / "out")[0]["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.jsonl"}]


@pytest.mark.parametrize("form", [files.ParquetFiles, files.JsonLines])
def test_a_file_ends_when_it_is_large_enough_and_the_next_one_begins_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: type[files.SplitFiles]
) -> None:
    table = pa.table({"n": [1, 2]})
    monkeypatch.setattr(files, "MOST_BYTES", 3 * table.nbytes)
    out = form(tmp_path / "data", "train")
    for _ in range(7):
        out.write(table)
    out.close()
    found = sorted((tmp_path / "data").iterdir())
    assert [path.name for path in found] == [f"train-{number:05d}.{form.suffix}" for number in range(3)]
    if form is files.ParquetFiles:
        assert [pq.read_metadata(path).num_rows for path in found] == [6, 6, 2]
    else:
        assert [len(path.read_text().splitlines()) for path in found] == [6, 6, 2]


def test_another_seed_sets_other_prompts_aside(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run", pairs=400)
    aside = []
    for seed in (0, 1):
        state = json.loads((made.run / "run.json").read_bytes())
        state["config"]["seed"] = seed
        (made.run / "run.json").write_bytes(json.dumps(state).encode())
        export(made.run.uri, tmp_path / str(seed), test=0.3)
        aside.append(set(read(tmp_path / str(seed), "test")["prompt"].to_pylist()))
    assert aside[0] != aside[1]


def test_the_pairs_to_read_are_those_that_agree_most(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    most = sorted((row for row in range(60) if made.kept[row]), key=lambda row: (made.divergence[row], made.ids[row]))
    done = export(made.run.uri, tmp_path / "out")
    assert [sample.pair_id for sample in done.samples] == [made.ids[row] for row in most[:3]]


def test_a_divergence_or_source_that_no_pair_has_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = finished_run(tmp_path / "run"), PairTables.read

    def without(tables: PairTables, shard: int) -> PairColumns:
        found = whole(tables, shard)
        nothing = np.full(len(found.ids), np.nan)
        return replace(found, divergence=nothing, source=pa.chunked_array([pa.nulls(len(nothing), pa.string())]))

    monkeypatch.setattr(PairTables, "read", without)
    done = export(made.run.uri, tmp_path / "out")
    table = read(tmp_path / "out")
    assert (table["pd"].null_count, table["source"].null_count, done.sources) == (18, 18, Counter())
    assert "The corpus does not say where its pairs come from." in front(tmp_path / "out")[1]
    first = [made.ids[row] for row in range(60) if made.kept[row]][:3]
    assert [(sample.pair_id, sample.pd) for sample in done.samples] == [(pair_id, None) for pair_id in first]


def test_the_card_tells_what_was_done_and_nothing_of_the_machine(tmp_path: Path) -> None:
    first = int(finished_run(tmp_path / "draw").divergence.argmin())
    hostile = ("```\n# not a heading", "<script>alert(1)</script>" + "x" * 2000, "````")
    made = finished_run(tmp_path / "run", texts={first: hostile})
    edit_manifest(made.run, "selection", lambda value: value["metrics"].update(share_by_aspect={"helpful": 0.25}))
    state = json.loads((made.run / "run.json").read_bytes())
    state["config"]["proxies"]["base_model"] = str(tmp_path / "models" / "llama")
    state["config"]["evaluation"] = {"max_pairs": 5}
    (made.run / "run.json").write_bytes(json.dumps(state).encode())
    (tmp_path / "out").mkdir()
    export(made.run.uri, tmp_path / "out", license="cc-by-4.0")
    head, text = front(tmp_path / "out")
    assert (head["license"], head["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert str(tmp_path) not in text
    assert "60 pairs went in; the 18 on which the other aspects agree most with the label were kept." in text
    assert "| helpful | " in text and "| 25.0% | 80.0% (67.0% to 89.0%) |" in text
    assert "| web | " in text and "licence `cc-by-4.0`" in text and "cd" * 32 in text
    assert "`````text\n[prompt]\n```\n# not a heading" in text, "a fence that no text closes"
    assert "x" * 600 in text and "x" * 1000 not in text
    assert "longer one in 55.0% of the kept pairs" in text
    assert "Keep 30% of the pairs by the strategy pd" in text and "start from `llama`" in text
    assert "Train the policy" not in text and "Judge the policy" not in text


def test_the_card_says_that_pairs_were_labelled_anew(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    export(made.run.uri, tmp_path / "before")
    edit_manifest(made.run, "selection", lambda value: value["metrics"].update(relabelled=3))
    export(made.run.uri, tmp_path / "after")
    told = "3 pairs were labelled anew: their chosen and rejected response have changed places since the corpus."
    assert told not in front(tmp_path / "before")[1]
    assert told in front(tmp_path / "after")[1]


def test_a_size_is_below_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.sharing.card.SIZES", ((18, "n<18"), (19, "n<19")))
    export(finished_run(tmp_path / "run").run.uri, tmp_path / "out")
    assert front(tmp_path / "out")[0]["size_categories"] == ["n<19"]


@pytest.mark.parametrize(
    ("licenses", "told"), [(("mit",), "mit"), (("mit", "cc0-1.0", None), "other"), ((None,), "unknown")]
)
def test_the_licence_of_each_pair_is_carried_and_summed_up(
    tmp_path: Path, licenses: tuple[str | None, ...], told: str
) -> None:
    made = finished_run(tmp_path / "run", licenses=licenses)
    done = export(made.run.uri, tmp_path / "out")
    kept = [licenses[row % len(licenses)] for row in range(60) if made.kept[row]]
    table = read(tmp_path / "out")
    assert table.column_names[5:7] == ["source", "license"] and table["license"].to_pylist() == kept
    assert done.licenses == Counter(name or "unknown" for name in kept)
    head, text = front(tmp_path / "out")
    assert done.license == head["license"] == told
    for name, number in done.licenses.items():
        assert f"| {name} | {number} |" in text
    assert "| `license` | the licence of the pair" in text
    assert ("each pair under that of its column `license`" in text) == (told == "other")
    assert export(made.run.uri, tmp_path / "mine", license="apache-2.0").license == "apache-2.0"


@pytest.mark.parametrize(
    ("licenses", "told"), [({"mit": 3}, "mit"), ({"mit": 3, "cc-by-4.0": 1}, "other"), (None, "unknown")]
)
def test_the_licence_is_the_one_beside_the_corpus(tmp_path: Path, licenses: dict | None, told: str) -> None:
    made = finished_run(tmp_path / "run")
    (tmp_path / "corpus").mkdir()
    if licenses:
        (tmp_path / "corpus" / "manifest.yaml").write_text(yaml.safe_dump({"licenses": licenses}))
    state = json.loads((made.run / "run.json").read_bytes())
    state["config"]["corpus"]["path"] = [str(tmp_path / "corpus" / ("" if licenses else "pairs-00000.parquet"))]
    (made.run / "run.json").write_bytes(json.dumps(state).encode())
    (tmp_path / "manifest.yaml").write_text("licenses: {of-another-set: 1}")  # in the folder above
    assert export(made.run.uri, tmp_path / "out").license == told
    assert front(tmp_path / "out")[0]["license"] == told


@pytest.mark.parametrize("text", ["a: [", "licenses: 3", "licenses: [mit]", "[" * 9999, bomb("{{<<: [{}]}}", 6)])
def test_a_manifest_that_says_nothing_gives_no_licence(tmp_path: Path, text: str) -> None:
    made = finished_run(tmp_path / "run")
    (tmp_path / "manifest.yaml").write_text(text)
    state = json.loads((made.run / "run.json").read_bytes())
    state["config"]["corpus"]["path"] = [str(tmp_path / "pairs.parquet")]
    (made.run / "run.json").write_bytes(json.dumps(state).encode())
    if text.startswith("licenses"):
        assert export(made.run.uri, tmp_path / "out").license == "unknown"
        return
    with pytest.raises(UserError, match=r"manifest.yaml cannot be read; name the licence .* --license"):
        export(made.run.uri, tmp_path / "out")
    assert export(made.run.uri, tmp_path / "out", license="mit").license == "mit"


def test_a_source_for_every_pair_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.sharing.export.COUNTED_SOURCES", 1)
    made = finished_run(tmp_path / "run")
    assert export(made.run.uri, tmp_path / "out").sources is None
    assert "They come from thousands of sources" in front(tmp_path / "out")[1]
    monkeypatch.setattr("pdray.sharing.export.COUNTED_SOURCES", 100)
    monkeypatch.setattr("pdray.sharing.card.MOST_SOURCES", 1)
    sources = export(made.run.uri, tmp_path / "some").sources
    assert sources is not None and f"\nand {len(sources) - 1} more.\n" in front(tmp_path / "some")[1]


def test_names_are_no_markup(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    name = "[a](http://x) `b` <i> | *c*"
    edit_manifest(made.run, "selection", lambda value: value["metrics"].update(kept_per_aspect={name: 3}))
    export(made.run.uri, tmp_path / "out")
    assert r"| \[a\](http://x) \`b\` \<i\> \| \*c\* | 3 |" in front(tmp_path / "out")[1]


@pytest.mark.parametrize("out", [".", "../here", "s3://bucket/x", "s3:/x"])
def test_the_folder_that_one_is_in_and_object_storage_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """A folder that is put in the place of the shell's own is not the one that the shell is in."""
    made = finished_run(tmp_path / "run")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = r"the folder that you are in; name a new|to a local disk; name a|is a folder named"
    with pytest.raises(UserError, match=words):
        export(made.run.uri, out)
    with pytest.raises(UserError, match=words):
        build("rated", out, [__file__])
    assert not list((tmp_path / "here").iterdir())


def test_what_is_refused_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = finished_run(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, options, words in (
        ("full", [], "is no new or empty folder"),
        ("new", ["--test", "1"], "give a share of the prompts"),
        ("new", ["--test", "0.0001"], "no pair would be in the split test"),
    ):
        assert main(["export", made.run.uri, str(tmp_path / out), *options]) == 2
        assert words in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), str(tmp_path / "new")]) == 2
    shard = folder_of(made.run, "selection") / "kept" / "shard-00001.parquet"
    shard.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"kept/shard-00001.parquet cannot be read .*; pdray run makes it again"):
        export(made.run.uri, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "full"}


def test_kept_pairs_of_another_selection_are_refused(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    pairs = folder_of(made.run, "selection") / "pairs" / "shard-00001.parquet"
    table = pairs.read_table()
    pairs.write_table(table.set_column(2, "kept", pa.array([True] * len(table))))
    with pytest.raises(UserError, match=r"kept does not hold the kept pairs of shard 1; pdray run makes it again"):
        export(made.run.uri, tmp_path / "new")


def test_kept_pairs_of_another_shard_are_refused(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    folder = folder_of(made.run, "selection") / "kept"
    (folder / "shard-00001.parquet").write_bytes((folder / "shard-00000.parquet").read_bytes())
    with pytest.raises(UserError, match=r"shard-00001\.parquet cannot be read \(its bytes are not .*run makes it"):
        export(made.run.uri, tmp_path / "new")


def test_kept_pairs_whose_marker_is_gone_are_refused(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    (folder_of(made.run, "selection") / "shards" / "shard-00001.json").delete()
    with pytest.raises(UserError, match=r"selection-\w+/kept/shard-00001\.parquet has no digest: .*run makes it again"):
        export(made.run.uri, tmp_path / "new")


@pytest.mark.parametrize(
    "change",
    [
        {"kept_per_aspect": 5},
        {"kept_per_aspect": {"helpful": {}}},
        {"kept_per_aspect": {"helpful": 3}, "share_by_aspect": {"helpful": "x"}},
        {"conflict": {"all": "x", "kept": None}},
        {"chosen_longer": [1]},
    ],
)
def test_figures_that_are_none_of_pdrays_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict
) -> None:
    made = finished_run(tmp_path / "run")
    edit_manifest(made.run, "selection", lambda value: value["metrics"].update(change))
    assert main(["export", made.run.uri, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "manifest.json" in said and "none of pdray's" in said and "delete" in said
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_corpus_path_that_is_no_path_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = finished_run(tmp_path / "run")
    for path, where in ((5, "run.json"), (["a\0b"], "manifest.yaml cannot be read")):
        state = json.loads((made.run / "run.json").read_bytes())
        state["config"]["corpus"]["path"] = path
        (made.run / "run.json").write_bytes(json.dumps(state).encode())
        assert main(["export", made.run.uri, str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and where in said


def test_of_a_run_in_rounds_a_round_is_named(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    state = json.loads((made.run / "run.json").read_bytes())
    state["config"]["rounds"] = 2
    (made.run / "run.json").write_bytes(json.dumps(state).encode())
    for number in (1, 2):
        (tmp_path / "run" / "rounds" / f"{number:02}").mkdir(parents=True)
    with pytest.raises(UserError, match=r"was made in rounds.*pdray export \S*/run/rounds/02"):
        export(made.run.uri, tmp_path / "new")


def test_a_run_without_a_selection_is_refused(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    (folder_of(made.run, "selection") / "manifest.json").delete()
    with pytest.raises(UserError, match="has no finished selection"):
        export(made.run.uri, tmp_path / "new")


def test_lance_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lance = pytest.importorskip("lance", reason="pip install pylance")
    import datasets

    made = finished_run(tmp_path / "run")
    assert main(["export", made.run.uri, str(tmp_path / "out"), "--format", "lance", "--test", "0.3"]) == 0
    parts = {split: sorted((tmp_path / "out" / "data").glob(f"{split}-*.lance")) for split in ("train", "test")}
    rows = [lance.dataset(str(path)).to_table() for paths in parts.values() for path in paths]
    assert sorted(pa.concat_tables(rows)["pair_id"].to_pylist()) == sorted(
        made.ids[row] for row in range(60) if made.kept[row]
    )
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: found[split].num_rows for split in found} == {
        split: sum(lance.dataset(str(path)).count_rows() for path in paths) for split, paths in parts.items()
    }


def test_without_lance_its_format_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    made = finished_run(tmp_path / "run")
    assert main(["export", made.run.uri, str(tmp_path / "out"), "--format", "lance"]) == 2
    said = "pdray: Lance is not installed here; pip install 'pdray[lance]', or take --format parquet\n"
    assert capsys.readouterr().err == said
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
