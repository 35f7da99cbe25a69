"""The pass over the shards beside the same from all pairs at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.hashing import hash64
from pdray.report import scan as scanning
from pdray.report.page import render
from pdray.report.run import read_run
from pdray.report.samples import CUT, EXTREME, MOST_LETTERS, NEGATIVE, POSITIVE, SALT, TYPICAL, turns
from pdray.report.scan import OTHERS, Scan, scan
from pdray.report.tables import PairTables, UnreadableError
from pdray.schema import KEPT, PAIRS
from tests.report.cases import ASPECTS, Made, edit_manifest, folder_of, make_run, shards_of
from tests.sharing.cases import finished_run


def scanned(made: Made) -> Scan:
    tables = PairTables.of(read_run(str(made.run)))
    assert tables is not None
    return scan(tables, made.cut)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("run"), 200, shards=3)


@pytest.fixture(scope="module")
def found(made: Made) -> Scan:
    return scanned(made)


def test_the_counts_are_those_of_all_pairs(made: Made, found: Scan) -> None:
    counts = found.counts
    assert counts.divergence.sum(axis=1).tolist() == [(~made.kept).sum(), made.kept.sum()]
    assert counts.conflict.sum(axis=1).tolist() == [(~made.conflict).sum(), made.conflict.sum()]
    assert counts.margins.sum(axis=1).tolist() == np.isfinite(made.margins).sum(axis=0).tolist()
    assert counts.sources == {
        name: (made.source.count(name), sum(k for k, s in zip(made.kept, made.source, strict=True) if s == name))
        for name in ("chat", "web")
    }
    short = made.tokens < 64
    assert counts.lengths[:, :6].sum(axis=1).tolist() == [(short & ~made.kept).sum(), (short & made.kept).sum()]


def test_the_samples_are_those_of_all_pairs(made: Made, found: Scan) -> None:
    marks = hash64(made.ids, SALT)

    def first(keys: np.ndarray, most: int) -> list[str]:
        return [made.ids[row] for row in np.lexsort((marks, keys))[:most]]

    shown = {name: [pair["pair_id"] for pair in pairs] for name, pairs in found.samples.items()}
    assert shown[NEGATIVE] == first(made.divergence, EXTREME)
    assert shown[POSITIVE] == first(-made.divergence, EXTREME)
    assert shown[CUT] == first(np.abs(made.divergence - made.cut), EXTREME)
    of_honest = np.where(made.own == 1, 0.0, np.inf)
    assert shown["Labelled by honest"] == first(of_honest, TYPICAL)


def test_a_sample_has_its_own_text_and_margins(made: Made, found: Scan) -> None:
    for pair in [one for pairs in found.samples.values() for one in pairs]:
        row = int(pair["pair_id"].removeprefix("pair-"))
        assert [pair[side][0][1] for side in ("prompt", "chosen", "rejected")] == [
            f"question {row}",
            f"good answer {row}",
            f"bad answer {row}",
        ]
        assert (pair["aspect"], pair["kept"], pair["conflict"]) == (
            ASPECTS[made.own[row]],
            made.kept[row],
            made.conflict[row],
        )
        assert pair["margins"][pair["aspect"]] is None
        assert pair["pd"] == pytest.approx(-sum(margin for margin in pair["margins"].values() if margin is not None))


def test_another_number_of_shards_shows_the_same(made: Made, found: Scan, tmp_path: Path) -> None:
    other = scanned(make_run(tmp_path, 200, shards=1))
    assert other.samples == found.samples
    assert (other.counts.divergence == found.counts.divergence).all()
    assert other.counts.products == pytest.approx(found.counts.products)


def test_messages(tmp_path: Path) -> None:
    turn = {"role": "assistant", "content": "a"}
    texts = {0: ([{"role": "user", "content": "q"}], [turn], [turn | {"content": "b"}])}
    shown = scanned(make_run(tmp_path, 12, texts=texts)).samples
    (pair, *_) = [one for pairs in shown.values() for one in pairs if one["pair_id"] == "pair-0000000"]
    assert (pair["prompt"], pair["rejected"]) == ([("user", "q", 0)], [("assistant", "b", 0)])


def test_long_texts_are_cut_and_say_so() -> None:
    assert turns("x" * 100_000) == [(None, "x" * MOST_LETTERS, 100_000 - MOST_LETTERS)]
    many = [{"role": "user", "content": "y" * 3000}] * 100
    assert [(len(text), cut) for _, text, cut in turns(many)] == [(3000, 0), (1000, 2000 + 98 * 3000)]


def test_names_of_sources_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "MOST_SOURCES", 2)
    one, other = {"c": (5, 1), "d": (1, 0)}, {"a": (2, 1), "b": (1, 1), "d": (1, 1)}
    assert scanning._added(one, other) == {"a": (2, 1), "b": (1, 1), OTHERS: (7, 2)}
    assert scanning._added(scanning._added(one, other), {"d": (3, 3)})[OTHERS] == (10, 5)


def test_a_pair_that_was_labelled_anew_is_read_as_it_was_kept(tmp_path: Path) -> None:
    made = finished_run(tmp_path, pairs=20, shards=2)
    row = int(np.flatnonzero(made.kept)[1])
    folder = shards_of(folder_of(made.run, "selection"), 2)
    shard = int(row >= 10)
    kept = folder.read(KEPT, shard)
    sides = [kept[name].to_pylist() for name in ("chosen", "rejected")]
    place = kept["pair_id"].to_pylist().index(made.ids[row])
    sides[0][place], sides[1][place] = sides[1][place], sides[0][place]
    for name, column in zip(("chosen", "rejected"), sides, strict=True):
        kept = kept.set_column(kept.column_names.index(name), kept.schema.field(name), pa.array(column))
    folder.write(shard, {PAIRS: folder.read(PAIRS, shard), KEPT: kept}, 0, {})
    edit_manifest(made.run, "selection", lambda value: value["metrics"].update(relabelled=1))
    found = {pair["pair_id"]: pair for pairs in scanned(made).samples.values() for pair in pairs}
    assert [name for name, pair in found.items() if pair["relabelled"]] == [made.ids[row]]
    assert found[made.ids[row]]["chosen"][0][1] == f"bad answer {row}"
    assert "labelled anew" in render(read_run(str(made.run)))


def test_a_damaged_table_is_named_and_left_alone(tmp_path: Path) -> None:
    made = make_run(tmp_path, 40)
    table = next(tmp_path.glob("selection-*/pairs/shard-00001.parquet"))
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(UnreadableError, match=r"^selection-\w+/pairs/shard-00001.parquet cannot be read"):
        scanned(made)
    assert next(tmp_path.glob("selection-*/shards/shard-00001.json")).is_file()


def test_tables_of_other_pairs_are_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path, 40)
    second = next(tmp_path.glob("selection-*/pairs/shard-00001.parquet"))
    make_run(tmp_path / "other", 30)
    second.write_bytes(next((tmp_path / "other").glob("selection-*/pairs/shard-00001.parquet")).read_bytes())
    with pytest.raises(UnreadableError, match="does not hold the pairs of the corpus' shard 1"):
        scanned(made)
