"""The shard plan: every row has one shard, prompts stay together, and order and blocks do not matter."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pdray.config import ScoresConfig
from pdray.corpus.build import default_texts
from pdray.corpus.check import checked_schema
from pdray.corpus.plan import PLAN, make_plan, pack, read_plan, record_plan
from pdray.corpus.rows import RowRules
from pdray.corpus.summary import BUCKETS, empty_summary, summarise
from pdray.errors import UserError
from pdray.storage import StoragePath
from tests.corpus.cases import checked, rows

RULES = RowRules({}, ratings={"a": ("x", "y"), "b": ("x", "y")})


def block(data):
    return pa.Table.from_pylist(checked(data), schema=checked_schema(RULES))


def some_rows(count):
    return [row | {"score_chosen.a": i / 7, "score_rejected.a": 1.0} for i, row in enumerate(rows(count))]


def whole(blocks):
    summary = empty_summary(2)
    for one in blocks:
        summary = summary.merged(summarise(one, ["a", "b"]))
    return summary


def test_the_plan_is_the_same_for_any_order_and_any_blocks():
    table = block(some_rows(600))
    shuffled = table.take(np.random.default_rng(0).permutation(600))
    plans = [
        make_plan(whole(blocks), ["a", "b"], 100)
        for blocks in ([table], [shuffled.slice(i, 1) for i in range(600)], [table.slice(0, 0), shuffled])
    ]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].rows == 600
    assert plans[0].spans == {"a": 599 / 7, "b": 0.0}


def test_distinct_texts_are_estimated_over_blocks():
    few = block(rows(50, prompt="q")[:1] * 50)
    assert whole([few, few]).distinct_texts == 2
    blocks = [
        block([row | {"chosen": f"{n} {i}", "rejected": f"{i}"} for i, row in enumerate(rows(4000))]) for n in range(3)
    ]
    assert whole(blocks).distinct_texts == pytest.approx(16_000, rel=0.05)


def test_shards_hold_about_as_many_texts_as_asked_and_a_prompt_has_one():
    table = block(rows(3000))
    plan = make_plan(whole([table]), ["a", "b"], 200)
    shards = plan.shards_of(table["place"].to_numpy(), table["pair_id"].to_pylist())
    counts = np.bincount(shards, minlength=plan.num_shards)
    assert counts.max() <= 100
    assert plan.num_shards < 1.2 * 6000 / 200
    same = block(rows(3000, chosen="another"))
    assert (plan.shards_of(same["place"].to_numpy(), [f"x{i}" for i in range(3000)]) == shards).all()


def test_one_enormous_prompt_is_split_by_id():
    data = [row | {"chosen": f"c{i}", "rejected": f"r{i}"} for i, row in enumerate(rows(1000, prompt="q"))]
    plan = make_plan(whole([block(data)]), ["a", "b"], 200)
    assert plan.num_shards == 10 + 2  # and one for the empty buckets before it and after it
    table = block(data)
    shards = plan.shards_of(table["place"].to_numpy(), table["pair_id"].to_pylist())
    counts = np.bincount(shards, minlength=plan.num_shards)
    assert (counts[0], counts[-1]) == (0, 0)
    assert counts[1:-1].min() > 50
    [bad] = set(plan.shards_of(table["place"].to_numpy(), [None] * 1000).tolist())  # rows without an id, all alike
    assert 0 < bad < plan.num_shards - 1


def test_buckets_are_packed_in_order_and_none_is_left_out():
    texts = np.zeros(BUCKETS)
    texts[[5, 6, 7, 9]] = [60, 30, 20, 300]
    assert pack(texts, 100) == [[0, 1], [7, 1], [9, 3], [10, 1]]
    assert pack(np.zeros(BUCKETS), 100) == [[0, 1]]


def test_the_config_decides_the_size_of_shards_whatever_nodes_are_there():
    assert default_texts(ScoresConfig(gpus_per_actor=0.5)) == 8 * default_texts(ScoresConfig(gpus_per_actor=0))


def test_the_first_plan_stays(tmp_path):
    folder = StoragePath(str(tmp_path))
    assert read_plan(folder) is None
    summary = whole([block(some_rows(100))])
    first = record_plan(folder, make_plan(summary, ["a", "b"], 10))
    assert first.num_shards > 10
    assert record_plan(folder, make_plan(summary, ["a", "b"], 1000)) == first == read_plan(folder)
    (tmp_path / PLAN).write_text("{")
    with pytest.raises(UserError, match=r"plan\.json is damaged; delete"):
        read_plan(folder)
