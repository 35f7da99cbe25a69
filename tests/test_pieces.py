"""The method on tables and data sets: the same ids as the stage's passes, whatever the blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

import pdray
from pdray.errors import UserError
from tests.selection.cases import ASPECTS, Case, by_hand, divergence, random_case


def without_lengths(**settings: int) -> Case:
    case = random_case(**settings)
    case.penalty = 0.0
    return case


def scored(case: Case) -> pa.Table:
    """As ``score_pairs`` gives it, with the labels; a reward that is not known is null."""
    columns = {"pair_id": case.ids, "aspect": [ASPECTS[own] for own in case.own]}
    for side, name in enumerate(("chosen", "rejected")):
        for number, aspect in enumerate(ASPECTS):
            rewards = case.rewards[:, side, number]
            columns[f"reward_{name}.{aspect}"] = pa.array(rewards, pa.float32(), mask=np.isnan(rewards))
    return pa.table(columns)


def with_margins(case: Case) -> pa.Table:
    with np.errstate(invalid="ignore"):
        margins = case.rewards[:, 0].astype(float) - case.rewards[:, 1]
    columns = {f"margin.{aspect}": margins[:, number] for number, aspect in enumerate(ASPECTS)}
    return pa.table({"pair_id": case.ids, "aspect": [ASPECTS[own] for own in case.own], **columns})


@pytest.mark.parametrize("columns", [scored, with_margins])
def test_a_table_gets_the_divergence_of_the_stage(columns: Callable[[Case], pa.Table]) -> None:
    case = without_lengths(rows=500)
    found = pdray.preference_divergence(columns(case))
    assert found.column_names == [*columns(case).column_names, "pd"]
    np.testing.assert_array_equal(found["pd"].to_numpy(), divergence(case))
    whole = pdray.preference_divergence(columns(case), gamma=1.0)
    np.testing.assert_array_equal(whole["pd"].to_numpy(), divergence(case, 1.0))
    weights = {"a": 0.5, "b": 0.0, "c": 2.0}
    weighted = pdray.preference_divergence(columns(case), gamma=0.5, weights=weights)
    np.testing.assert_array_equal(weighted["pd"].to_numpy(), divergence(case, 0.5, weights))


def test_a_table_keeps_the_pairs_of_the_stage_in_its_order() -> None:
    case = without_lengths(rows=500)
    kept = pdray.select(pdray.preference_divergence(scored(case)), budget=0.3)
    wanted = {pair_id for _, pair_id, _ in by_hand(case)}
    assert kept["pair_id"].to_pylist() == [pair_id for pair_id in case.ids if pair_id in wanted]
    assert "reward_chosen.a" in kept.column_names


@pytest.mark.parametrize("columns", [scored, with_margins])
def test_a_table_and_an_array_agree_to_the_last_digit(columns: Callable[[Case], pa.Table]) -> None:
    case = without_lengths(rows=200)
    case.rewards = np.random.default_rng(0).normal(size=case.rewards.shape).astype(np.float32)
    found = pdray.preference_divergence(columns(case), gamma=0.8)["pd"].to_numpy()
    margins = case.rewards[:, 0].astype(float) - case.rewards[:, 1]
    np.testing.assert_array_equal(found, pdray.preference_divergence(margins, case.own, 0.8))


def test_both_zeros_are_one_and_their_ties_go_by_id() -> None:
    pairs = pa.table({"pair_id": ["b", "a"], "pd": [-0.0, 0.0]})
    assert pdray.select(pairs, budget=0.5)["pair_id"].to_pylist() == ["a"]


def test_ids_may_be_numbers_and_there_may_be_fewer_finite_pairs_than_asked_for() -> None:
    pairs = pa.table({"pair_id": [10, 9, 8, 7], "pd": [0.0, None, 0.0, float("nan")]})
    assert pdray.select(pairs, budget=0.25)["pair_id"].to_pylist() == [10]  # "10" before "8"
    assert pdray.select(pairs, budget=1.0)["pair_id"].to_pylist() == [10, 8]
    assert pdray.select(pairs, budget=0.2).num_rows == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda pairs: pairs.drop_columns("aspect"),
            r"needed are aspect, the label of each pair, and margin\.<aspect>",
        ),
        (lambda pairs: pairs.select(["pair_id", "aspect"]), r"have the columns aspect, pair_id; needed are aspect"),
        (
            lambda pairs: pairs.set_column(1, "aspect", pa.array(["x"] * len(pairs))),
            r"a pair has the aspect 'x', but there are margins of a, b, c only",
        ),
        (
            lambda pairs: pairs.set_column(2, "margin.a", pa.array(["x"] * len(pairs))),
            r"the column margin\.a holds string values, but numbers are needed",
        ),
        (lambda pairs: pairs.append_column("pd", pairs["margin.a"]), "have a column pd already; drop it"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change: Callable[[pa.Table], pa.Table], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pdray.preference_divergence(change(with_margins(without_lengths(rows=9))))


def test_what_does_not_fit_a_table_is_refused() -> None:
    pairs = with_margins(without_lengths(rows=9))
    with pytest.raises(UserError, match="own is for arrays; the labels of a table or a data set are its column aspect"):
        pdray.preference_divergence(pairs, np.zeros(9))  # type: ignore[call-overload]
    without = scored(without_lengths(rows=90)).drop_columns("reward_rejected.c")
    with pytest.raises(UserError, match="a pair has the aspect 'c', but there are margins of a, b only"):
        pdray.preference_divergence(without)
    with pytest.raises(UserError, match="weights names d, but there are margins of a, b, c only"):
        pdray.preference_divergence(pairs, weights={"d": 1.0})
    with pytest.raises(UserError, match="weights holds inf, but has to hold numbers of 0 or more"):
        pdray.preference_divergence(pairs, weights={"a": float("inf")})
    with pytest.raises(UserError, match="the pairs have no column pd; they have pair_id, aspect"):
        pdray.select(pairs, budget=0.5)
    with pytest.raises(UserError, match="pair_ids is for arrays"):
        pdray.select(pairs, ["a"], 0.5)  # type: ignore[call-overload]
    for budget in (0, 30):
        with pytest.raises(UserError, match=f"budget is {budget}, but has to be a share"):
            pdray.select(pairs, budget=budget)
    twice = pa.table({"pair_id": ["a", "a", "b"], "pd": [0.0, 0.0, 0.0]})
    with pytest.raises(UserError, match="2 pairs would be kept in place of 1, because a pair_id stands there twice"):
        pdray.select(twice, budget=0.34)
    with pytest.raises(UserError, match="a pair has no pair_id; give each its own"):
        pdray.select(pa.table({"pair_id": ["a", None], "pd": [0.0, 0.0]}), budget=0.5)


def test_a_data_set_keeps_the_pairs_of_the_stage_in_blocks_of_any_size(ray_local: None) -> None:
    import ray.data

    case = without_lengths(rows=600)
    whole = scored(case)
    blocks = [whole.slice(0, 7), whole.slice(7, 0), whole.slice(7, 400), whole.slice(407)]
    found = pdray.preference_divergence(ray.data.from_arrow(blocks))
    kept = pdray.select(found, budget=0.3)
    assert {row["pair_id"] for row in kept.take_all()} == {pair_id for _, pair_id, _ in by_hand(case)}
    bad = ray.data.from_arrow(whole.set_column(1, "aspect", pa.array(["x"] * len(whole))))
    with pytest.raises(UserError, match="a pair has the aspect 'x'"):
        pdray.preference_divergence(bad)


def test_one_id_on_more_rows_than_are_collected_is_named():
    rows = 70_000
    pairs = pa.table({"pair_id": pa.array(["same"] * rows), "pd": pa.array(np.zeros(rows))})
    with pytest.raises(UserError, match="70,000 pairs have the id same; give each its own"):
        pdray.select(pairs, budget=0.5)
