"""The cut on a real Ray: the same ids however the corpus was sharded and the work was split."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from scipy.stats import rankdata

from pdray.config import SelectionConfig
from pdray.errors import UserError
from pdray.schema import CorpusOutput, kept_schema, selection_schema
from pdray.selection import ranks, stage
from pdray.selection.groups import in_order, shared_out
from pdray.selection.shared import read_shared
from pdray.selection.stage import STAGE
from pdray.shards import CONTENT, ShardedFolder
from pdray.stages import Upstream
from pdray.storage import StoragePath
from tests.selection.cases import ASPECTS, Case, by_hand, divergence, random_case, read, select, text, write_case
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")

# Sum of the XXH3 (128 bits) of the kept ids of the case below, modulo 2^128.
GOLDEN = "e190c44f998deb9f98b11dbd59d5dc7d"


@pytest.fixture(scope="module")
def case():
    return random_case()


@pytest.mark.parametrize("num_shards", [1, 7, 30])
def test_golden_ids_for_any_number_of_shards(tmp_path, case, num_shards):
    result = select(tmp_path, case, num_shards)
    expected = by_hand(case)
    pairs = read(tmp_path, "pairs")
    kept = pairs.filter(pairs["kept"])
    assert sorted(kept["pair_id"].to_pylist()) == sorted(pair_id for _, pair_id, _ in expected)
    assert sorted(kept["pd"].to_pylist()) == [pd for _, _, pd in expected]
    assert result.metrics["cut_pd"] == expected[-1][2]
    digests = [int(xxhash.xxh3_128_hexdigest(pair_id.encode()), 16) for _, pair_id, _ in expected]
    assert result.metrics["ids_digest"] == f"{sum(digests) % 2**128:032x}" == GOLDEN


ONE_WORKER = """
import pathlib, sys
from pdray.config import ClusterConfig
from pdray.runtime import ray_session
from tests.selection.cases import random_case, select
with ray_session(ClusterConfig(num_cpus=1)):
    print(select(pathlib.Path(sys.argv[1]), random_case(), 7).metrics["ids_digest"])
"""


def test_golden_ids_for_one_worker(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ONE_WORKER, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == [GOLDEN], done.stderr


@pytest.mark.parametrize("chat", [False, True])
def test_every_pair_has_its_row_and_the_kept_ones_their_text(tmp_path, case, chat):
    case.chat = chat
    result = select(tmp_path, case, 3)
    case.chat = False
    pairs, kept = read(tmp_path, "pairs"), read(tmp_path, "kept")
    assert pairs.schema.equals(selection_schema(ASPECTS))
    assert kept.schema.equals(kept_schema(chat))
    assert sorted(pairs["pair_id"].to_pylist()) == sorted(case.ids)
    assert kept["pair_id"].to_pylist() == pairs.filter(pairs["kept"])["pair_id"].to_pylist()
    rows = {pair_id: row for row, pair_id in enumerate(case.ids)}
    case.chat = chat
    for pair in kept.to_pylist():
        row = rows[pair["pair_id"]]
        assert [pair[part] for part in ("prompt", "chosen", "rejected")] == [
            text(case, part, row) for part in ("prompt", "chosen", "rejected")
        ]
        assert pair["aspect"] == ASPECTS[case.own[row]]
    case.chat = False
    whole = dict(zip(case.ids, divergence(case), strict=True))
    np.testing.assert_array_equal(pairs["pd"].to_numpy(), [whole[pair_id] for pair_id in pairs["pair_id"].to_pylist()])
    assert result.dropped["divergence not finite"] == int(np.isnan(pairs["pd"].to_numpy()).sum()) > 0
    assert result.rows_in == result.rows_out + sum(result.dropped.values())
    assert sum(result.metrics["kept_per_aspect"].values()) == 900


def test_margins_are_null_for_the_own_aspect_alone(tmp_path, case):
    select(tmp_path, case, 3)
    pairs = read(tmp_path, "pairs")
    own = dict(zip(case.ids, case.own, strict=True))
    for index, aspect in enumerate(ASPECTS):
        nulls = pairs[f"margin.{aspect}"].is_null().to_pylist()
        assert nulls == [own[pair_id] == index for pair_id in pairs["pair_id"].to_pylist()]


def test_conflict_shares_are_those_of_the_rows(tmp_path, case):
    shares = select(tmp_path, case, 3).metrics["conflict"]
    marks = dict(zip(case.ids, case.conflict.tolist(), strict=True))
    kept = [marks[pair_id] for pair_id in read(tmp_path, "kept")["pair_id"].to_pylist()]
    assert shares["kept"] == sum(kept) / len(kept)
    assert abs(shares["random"] - shares["all"]) < 0.06


def test_the_area_under_the_roc_curve_is_that_of_the_rows(tmp_path, case):
    found = select(tmp_path, case, 3).metrics["auroc"]
    pd = divergence(case)
    known = np.isfinite(pd)
    ranks = rankdata(pd[known])
    conflict = case.conflict[known]
    above = ranks[conflict].sum() - conflict.sum() * (conflict.sum() + 1) / 2
    assert found == pytest.approx(above / (conflict.sum() * (~conflict).sum()), abs=1e-3)


def test_a_corpus_without_ratings_has_no_conflict_shares(tmp_path):
    case = random_case(rows=300)
    case.conflict = None
    metrics = select(tmp_path, case, 2).metrics
    assert metrics["conflict"] is None and metrics["auroc"] is None


@pytest.mark.parametrize(
    ("strategy", "num_shards"),
    [
        ("pd", 5),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in [("random", 4), ("pd", 1), ("pd_high", 3), ("pd_mid", 3), ("longest", 2)]
        ),
    ],
)
def test_a_sort_keeps_the_same_ids_and_gives_the_ranks(tmp_path, case, strategy, num_shards, monkeypatch):
    expected = by_hand(case, strategy=strategy)
    for method, rank, few in (("radix", "kept", 0), ("sort", "all", 0), ("radix", "all", ranks.FEW)):
        monkeypatch.setattr(ranks, "FEW", few)
        folder = tmp_path / f"{method}-{few}"
        result = select(folder, case, num_shards, strategy=strategy, method=method, rank=rank)
        ids = read(folder, "kept")["pair_id"].to_pylist()
        assert sorted(ids) == sorted(pair_id for _, pair_id, _ in expected)
        assert result.metrics["cut_pd"] == expected[-1][2]
        ranked = read(folder, "ranked").sort_by("rank")
        whole = expected if rank == "kept" else by_hand(case, 1.0, strategy=strategy)
        assert ranked["pair_id"].to_pylist() == [pair_id for _, pair_id, _ in whole]
        np.testing.assert_array_equal(ranked["pd"].to_numpy(), [pd for _, _, pd in whole])
        assert ranked["rank"].to_pylist() == list(range(1, len(whole) + 1))


@pytest.mark.parametrize("budget", [0.01, 0.5, 0.95])
def test_radix_and_sort_agree_where_most_keys_are_tied(tmp_path, budget, monkeypatch):
    monkeypatch.setattr(ranks, "FEW", 0)
    case = random_case(seed=11, rows=700, odd=0.01)
    case.rewards, case.penalty = np.sign(case.rewards), 0.0
    digests = {
        select(tmp_path / method, case, shards, budget=budget, method=method).metrics["ids_digest"]
        for method, shards in (("radix", 3), ("sort", 2))
    }
    assert len(digests) == 1
    kept = read(tmp_path / "radix", "kept")["pair_id"].to_pylist()
    assert sorted(kept) == sorted(pair_id for _, pair_id, _ in by_hand(case, budget))


def quota_by_hand(case: Case, groups: list[str], budget: float) -> set[str]:
    """The ids that a quota keeps: of each group as large a share, said once more."""
    rows = [(key, pair_id, groups[case.ids.index(pair_id)]) for key, pair_id, _ in by_hand(case, 1.0)]
    sizes = Counter(group for *_, group in rows)
    parts = shared_out(int(round(budget * len(case.ids), 6)), sizes)
    return {pair_id for name in sizes for _, pair_id, _ in [row for row in rows if row[2] == name][: parts[name]]}


@pytest.mark.parametrize(
    ("quota", "method"),
    [("source", "radix"), ("length", "radix"), pytest.param("aspect", "sort", marks=pytest.mark.slow)],
)
def test_a_quota_keeps_the_same_share_of_each_group(tmp_path, case, quota, method):
    case = replace(case, sources=[["web", "book", None][i % 7 % 3] for i in range(len(case.ids))])
    groups = {
        "aspect": [ASPECTS[own] for own in case.own],
        "length": [f"{1 << n.bit_length() - 1}-{(1 << n.bit_length()) - 1} tokens" for n in case.tokens[:, 0].tolist()],
        "source": [source or "no source" for source in case.sources or []],
    }[quota]
    result = select(tmp_path, case, 5, quota=quota, method=method, rank="none" if quota == "length" else "kept")
    expected = quota_by_hand(case, groups, 0.3)
    assert set(read(tmp_path, "kept")["pair_id"].to_pylist()) == expected and len(expected) == 900
    if quota != "length":
        ranked = read(tmp_path, "ranked").sort_by("rank")["pair_id"].to_pylist()
        assert ranked == [pair_id for _, pair_id, _ in by_hand(case, 1.0) if pair_id in expected]
    share = result.metrics[f"share_by_{quota}"]
    sizes, kept = Counter(groups), Counter(groups[case.ids.index(pair_id)] for pair_id in expected)
    assert share == {name: kept[name] / sizes[name] for name in in_order(sizes)}
    assert result.metrics["cut_pd"] is None


def test_a_quota_with_more_groups_than_it_takes_is_refused(tmp_path, case):
    case = replace(case, sources=[f"source {i % 90}" for i in range(len(case.ids))])
    assert select(tmp_path / "free", case, 2).metrics["share_by_source"] is None
    with pytest.raises(UserError, match=r"selection\.quota is source, of which the corpus has more than 64"):
        select(tmp_path / "quota", case, 2, quota="source")


def test_another_budget_reads_no_quantile_again(tmp_path, case, monkeypatch):
    upstream = write_case(tmp_path, case, 4)
    run_stage(STAGE, tmp_path, upstream=upstream, selection=SelectionConfig(rank="none"))
    monkeypatch.setattr(stage, "absolute_quantiles", None)  # calling it would fail
    half = SelectionConfig(budget=0.15, rank="none")
    result = run_stage(STAGE, tmp_path, "half", upstream, selection=half)
    assert sorted(read(tmp_path, "kept", "half")["pair_id"].to_pylist()) == sorted(
        pair_id for _, pair_id, _ in by_hand(case, 0.15)
    )
    assert result.rows_out == 450
    with pytest.raises(TypeError):
        run_stage(STAGE, tmp_path, "other", upstream, selection=SelectionConfig(gamma=0.8, rank="none"))


def test_scores_that_were_made_again_with_other_digits_are_counted_again(tmp_path, case, monkeypatch):
    """As on another machine: the first count of before would put the cut beside its place."""
    upstream = write_case(tmp_path, case, 2)
    scores = upstream.shards("scores")

    def made(content: str) -> None:
        for shard in range(2):
            scores.write(shard, {"texts": scores.read("texts", shard)}, 0, {CONTENT: content})

    made("first")
    run_stage(STAGE, tmp_path, upstream=upstream, selection=SelectionConfig(rank="none"))
    monkeypatch.setattr(stage, "absolute_quantiles", None)  # calling it would fail
    half = SelectionConfig(budget=0.15, rank="none")
    run_stage(STAGE, tmp_path, "half", upstream, selection=half)
    made("second")
    with pytest.raises(TypeError):
        run_stage(STAGE, tmp_path, "again", upstream, selection=half)


def test_a_damaged_shared_file_is_not_believed(tmp_path, case):
    upstream = write_case(tmp_path, case, 2)
    run_stage(STAGE, tmp_path, upstream=upstream, selection=SelectionConfig(rank="none"))
    (path,) = (tmp_path / "shared").iterdir()
    value = json.loads(path.read_text())
    assert read_shared(StoragePath(str(path)), value["key"]) is not None
    path.write_text(json.dumps(value | {"counts": [count + 1 for count in value["counts"]]}))
    assert read_shared(StoragePath(str(path)), value["key"]) is None
    result = run_stage(STAGE, tmp_path, "again", upstream, selection=SelectionConfig(rank="none"))
    assert result.metrics["ids_digest"] == GOLDEN


def test_only_missing_shards_are_written_again(tmp_path, case):
    select(tmp_path, case, 4)
    folder = tmp_path / "selection-test"
    before = {path: path.stat().st_mtime_ns for path in sorted((folder / "kept").iterdir())}
    (folder / "shards" / "shard-00002.json").unlink()
    content = (folder / "kept" / "shard-00002.parquet").read_bytes()
    assert select(tmp_path, case, 4).metrics["ids_digest"] == GOLDEN
    after = {path: path.stat().st_mtime_ns for path in sorted((folder / "kept").iterdir())}
    assert [before[path] == after[path] for path in before] == [True, True, False, True]
    assert (folder / "kept" / "shard-00002.parquet").read_bytes() == content


def test_fewer_finite_pairs_than_the_budget_is_refused(tmp_path, case):
    with pytest.raises(UserError, match="finite divergence"):
        select(tmp_path, case, 1, budget=1.0)


@pytest.mark.parametrize("damage", ["gone", "foreign", "short"])
def test_scores_that_are_not_those_of_the_corpus_are_refused(tmp_path, case, damage):
    upstream = write_case(tmp_path, case, 3)
    scores = upstream.shards("scores")
    rewards = scores.read("texts", 1)
    if damage == "gone":
        scores.marker_path(1).delete()
    elif damage == "foreign":
        ShardedFolder(scores.folder, "another", 3).write(1, {"texts": rewards}, 0, {})
    else:
        scores.write(1, {"texts": rewards.slice(1)}, 0, {})
    with pytest.raises(UserError, match="run again"):
        run_stage(STAGE, tmp_path, upstream=upstream, selection=SelectionConfig(rank="none"))


def test_a_table_that_is_lost_meanwhile_is_named(tmp_path, case):
    upstream = write_case(tmp_path, case, 3)
    upstream.shards("corpus").table("texts", 2).delete()
    with pytest.raises(UserError, match=r"corpus-test/texts/shard-00002\.parquet is damaged"):
        run_stage(STAGE, tmp_path, upstream=upstream, selection=SelectionConfig(rank="none"))


def test_a_budget_that_keeps_nothing_is_refused_before_the_proxies():
    class Config:
        selection = SelectionConfig(budget=0.001)
        logprobs = alignment = None

    def with_pairs(pairs: int) -> Upstream:
        return Upstream(corpus=CorpusOutput(1, pairs, 2 * pairs, ASPECTS, {}, False))

    with pytest.raises(UserError, match="keeps none"):
        STAGE.check(Config, with_pairs(500))
    STAGE.check(Config, with_pairs(1000))
    STAGE.check(Config, Upstream())
    with pytest.raises(UserError, match=r"at least 0\.34"):
        STAGE.check(Config, with_pairs(3))


def test_an_aspect_without_a_finite_margin_has_no_quantile(tmp_path):
    case = random_case(rows=600)
    case.own[:] = 0
    case.rewards[:, :, 0] = np.nan
    metrics = select(tmp_path, case, 2).metrics
    assert metrics["quantiles"]["a"] is None
    json.dumps(metrics, allow_nan=False)


def test_how_the_cut_is_found_does_not_change_the_fingerprint():
    class Config:
        seed = 0
        selection = SelectionConfig()

    class Sorted(Config):
        selection = SelectionConfig(method="sort")

    class All(Config):
        selection = SelectionConfig(rank="all")

    assert STAGE.settings(Config) == STAGE.settings(Sorted) != STAGE.settings(All)
