"""The cut on a real Ray: the same ids however the work was split."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.config import SelectionConfig
from pdray.errors import UserError
from pdray.selection import stage
from pdray.selection.strategies import random_keys
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")

ROWS = 3000
ASPECTS = ("a", "b", "c")
PENALTY = 0.01
# sha256 of the sorted ids, each with a newline, of the case below.
GOLDEN = "463d8f41e78a1f6e485ba01ee597bd86fa3cdc418206a0e6af9093c0e3f81b41"


@pytest.fixture(scope="module")
def case():
    return make_case()


def make_case():
    """Scores with many ties, some NaN and infinities."""
    rng = np.random.default_rng(5)
    own = rng.integers(0, 3, ROWS)
    columns = {
        "pair_id": [f"pair-{i:05}" for i in rng.permutation(ROWS)],
        "aspect": [ASPECTS[i] for i in own],
        "len_chosen": rng.integers(1, 9, ROWS).astype(np.int32),
        "len_rejected": rng.integers(1, 9, ROWS).astype(np.int32),
        "conflict": rng.random(ROWS) < 0.2,
    }
    for index, aspect in enumerate(ASPECTS):
        for side in ("chosen", "rejected"):
            values = rng.integers(-2, 3, ROWS).astype(np.float32)
            values[rng.random(ROWS) < 0.01] = rng.choice([np.nan, np.inf, -np.inf])
            columns[f"reward_{side}.{aspect}"] = pa.array(values, mask=own == index)
    return pa.table(columns)


def by_hand(table, budget=0.3, gamma=0.9):
    """The whole method on one array, the plain way."""
    own = np.array([ASPECTS.index(aspect) for aspect in table["aspect"].to_pylist()])
    lengths = table["len_chosen"].to_numpy().astype(float) - table["len_rejected"].to_numpy()
    divergence = np.zeros(len(table))
    for index, aspect in enumerate(ASPECTS):
        chosen, rejected = (
            table[f"reward_{side}.{aspect}"].to_numpy().astype(float) for side in ("chosen", "rejected")
        )
        margin = (chosen - rejected - PENALTY * lengths).astype(np.float32)
        sizes = np.sort(np.abs(margin[np.isfinite(margin) & (own != index)]))
        quantile = float(sizes[int(np.ceil(gamma * len(sizes))) - 1])
        scaled = np.clip(np.where(np.isfinite(margin), margin, np.nan).astype(float) / quantile, -1, 1)
        divergence -= np.where(own == index, 0, scaled)
    order = sorted((pd, i) for pd, i in zip(divergence, table["pair_id"].to_pylist(), strict=True) if np.isfinite(pd))
    return order[: int(budget * len(table))]


def select(tmp_path, table, num_blocks, **config):
    write_inputs(tmp_path, table, num_blocks)
    return run_selection(tmp_path / "out", len(table), tmp_path, **config)


def write_inputs(tmp_path, table, num_blocks):
    rng = np.random.default_rng(num_blocks)
    for name, part in (("scores/scores", table), ("corpus/pairs", texts(table))):
        (tmp_path / name).mkdir(parents=True)
        for index, rows in enumerate(np.array_split(rng.permutation(len(table)), num_blocks)):
            pq.write_table(part.take(rows), tmp_path / name / f"{index}.parquet")


def run_selection(out, rows, root, **config):
    aspects = {aspect: {"length_penalty": PENALTY} for aspect in ASPECTS}
    return run_stage(
        stage,
        out,
        {"scores": root / "scores", "corpus": root / "corpus"},
        {"corpus": {"rows_out": rows}, "proxies": {"metrics": {"aspects": aspects}}},
        selection=SelectionConfig(**config),
    )


def texts(table):
    ids = table["pair_id"].to_pylist()
    columns = {name: [f"{name} of {i}" for i in ids] for name in ("prompt", "chosen", "rejected")}
    return pa.table({"pair_id": ids, **columns, "aspect": table["aspect"]})


@pytest.mark.parametrize("num_blocks", [1, 7, 64])
def test_golden_ids_for_any_number_of_blocks(tmp_path, case, num_blocks):
    result = select(tmp_path, case, num_blocks)
    expected = by_hand(case)
    kept = pq.read_table(tmp_path / "out" / "selection").sort_by("rank")
    assert kept["pair_id"].to_pylist() == [pair_id for _, pair_id in expected]
    np.testing.assert_array_equal(kept["pd"].to_numpy(), [pd for pd, _ in expected])
    assert kept["rank"].to_pylist() == list(range(1, 901))
    assert result.metrics["cut_pd"] == expected[-1][0]
    ids = "".join(f"{pair_id}\n" for pair_id in sorted(pair_id for _, pair_id in expected))
    assert result.metrics["ids_sha256"] == hashlib.sha256(ids.encode()).hexdigest() == GOLDEN


ONE_WORKER = """
import pathlib, sys
from pdray.config import ClusterConfig
from pdray.runtime import ray_session
from tests.integration.test_selection import make_case, select
with ray_session(ClusterConfig(num_cpus=1)):
    print(select(pathlib.Path(sys.argv[1]), make_case(), 7).metrics["ids_sha256"])
"""


def test_golden_ids_for_one_worker(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ONE_WORKER, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == [GOLDEN], done.stderr


def test_every_pair_is_kept_rest_or_counted_and_the_text_is_joined(tmp_path, case):
    result = select(tmp_path, case, 3)
    kept = pq.read_table(tmp_path / "out" / "selection")
    rest = pq.read_table(tmp_path / "out" / "rest")
    not_finite = result.dropped["divergence not finite"]
    assert not_finite > 0
    assert len(kept) + len(rest) + not_finite == ROWS
    assert result.rows_in == result.rows_out + sum(result.dropped.values())
    text = pq.read_table(tmp_path / "out" / "kept")
    assert sorted(text["pair_id"].to_pylist()) == sorted(kept["pair_id"].to_pylist())
    assert text["chosen"][0].as_py() == f"chosen of {text['pair_id'][0].as_py()}"
    assert max(kept["pd"].to_pylist()) <= min(rest["pd"].to_pylist())


def test_conflict_shares_are_those_of_the_rows(tmp_path, case):
    shares = select(tmp_path, case, 3).metrics["conflict"]
    marks = dict(zip(case["pair_id"].to_pylist(), case["conflict"].to_pylist(), strict=True))
    kept = [marks[i] for i in pq.read_table(tmp_path / "out" / "selection")["pair_id"].to_pylist()]
    assert shares["kept"] == sum(kept) / len(kept)
    assert abs(shares["random"] - shares["all"]) < 0.06


def test_the_highest_divergence_and_a_random_draw(tmp_path, case):
    whole = by_hand(case, budget=1.0)
    high = select(tmp_path / "high", case, 3, strategy="pd_high")
    assert high.metrics["cut_pd"] == whole[-900][0]
    select(tmp_path / "random", case, 7, strategy="random")
    ids = [pair_id for _, pair_id in whole]
    keys = random_keys(np.empty(0), ids, 0)
    kept = pq.read_table(tmp_path / "random" / "out" / "selection").sort_by("rank")["pair_id"].to_pylist()
    assert kept == [pair_id for _, pair_id in sorted(zip(keys, ids, strict=True))][:900]


def test_fewer_finite_pairs_than_the_budget_is_refused(tmp_path, case):
    with pytest.raises(UserError, match="finite divergence"):
        select(tmp_path, case, 1, budget=1.0)


def test_a_budget_that_keeps_nothing_is_refused_before_the_proxies():
    class Config:
        selection = SelectionConfig(budget=0.001)

    with pytest.raises(UserError, match="keeps none"):
        stage.check(Config, {"corpus": {"rows_out": 500}})
    stage.check(Config, {"corpus": {"rows_out": 1000}})
    stage.check(Config, {})
    with pytest.raises(UserError, match=r"at least 0\.34"):
        stage.check(Config, {"corpus": {"rows_out": 3}})


def test_an_aspect_without_a_finite_margin_has_no_quantile(tmp_path, case):
    broken = case.set_column(
        case.column_names.index("reward_chosen.a"), "reward_chosen.a", pa.array(np.full(ROWS, np.nan, np.float32))
    )
    metrics = select(tmp_path, broken, 2).metrics
    assert metrics["quantiles"]["a"] is None
    json.dumps(metrics, allow_nan=False)


def test_scores_that_are_not_the_corpus_are_refused(tmp_path, case):
    write_inputs(tmp_path, case, 3)
    path = tmp_path / "scores" / "scores" / "1.parquet"
    part = pq.read_table(path)
    again = r"delete .*scores and run again, they are scored anew$"
    path.unlink()
    with pytest.raises(UserError, match=rf"1,000 of 3,000 rows are missing in .*scores; {again}") as refusal:
        run_selection(tmp_path / "gone", 3000, root=tmp_path)
    assert refusal.value.exit_code == 2
    pq.write_table(part[:-1], path)
    with pytest.raises(UserError, match="1 of 3,000 rows are missing"):
        run_selection(tmp_path / "short", 3000, root=tmp_path)
    pq.write_table(pa.concat_tables([part, part[:2]]), path)
    with pytest.raises(UserError, match=rf"holds 3,002 rows for 3,000 pairs; {again}"):
        run_selection(tmp_path / "long", 3000, root=tmp_path)
    pq.write_table(part.set_column(0, "pair_id", pa.array([f"x{i}" for i in range(len(part))])), path)
    with pytest.raises(UserError, match=rf"holds the scores of other pairs than .*corpus; {again}"):
        run_selection(tmp_path / "other", 3000, root=tmp_path)


def test_folders_named_like_columns_change_nothing(tmp_path, case):
    result = select(tmp_path / "aspect=a", case, 2)
    assert result.metrics["ids_sha256"] == GOLDEN
    kept = [pq.ParquetFile(path).read() for path in (tmp_path / "aspect=a" / "out" / "kept").iterdir()]
    assert {aspect for table in kept for aspect in table["aspect"].to_pylist()} == set(ASPECTS)
