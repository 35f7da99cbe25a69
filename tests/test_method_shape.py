"""The shape check of benchmarks/method: intervals of paired contrasts, and what they say of the paper's lines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.method.report import rows_of, verdicts
from benchmarks.method.selection import PairColumns, divergence_of, select
from benchmarks.method.shape import (
    FAILS,
    HOLDS,
    OPEN,
    TOLERANCE,
    Claim,
    Key,
    claims,
    claims_of_data,
    contrast,
    resampled,
    verdict,
)
from pdray.evaluation.accuracy import Estimate
from pdray.selection.strategy import LogProbs

LEVELS = [0.1, 0.2, 0.3]


def drawn(mean: float, seed: int, seeds: int = 3, prompts: int = 600) -> np.ndarray:
    """Right or wrong for each of some prompts under each of some seeds."""
    return (np.random.default_rng(seed).random((seeds, prompts)) < mean).astype(float)


def alone(values: np.ndarray) -> np.ndarray:
    """A prompt of its own for each pair."""
    return np.tile(np.arange(values.shape[1]), (len(values), 1))


def test_the_interval_holds_the_mean_and_is_seeded() -> None:
    values = drawn(0.7, 0)
    found = resampled(values, alone(values), 1)
    assert found == resampled(values, alone(values), 1)
    assert found.mean == values.mean()
    assert found.low < found.mean < found.high
    # Binomial: ± 1.96 √(0.21 / 1800), and a little for the seeds.
    assert 0.015 < (found.high - found.low) / 2 < 0.035


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = np.full((3, 400), 0.5)
    apart = alike + np.array([[-0.1], [0.0], [0.1]])
    prompts = alone(alike)
    assert resampled(alike, prompts, 0).high - resampled(alike, prompts, 0).low < 1e-12
    assert resampled(apart, prompts, 0).low <= 0.45
    assert resampled(apart, prompts, 0).high >= 0.55


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    """Twenty pairs of a prompt that are all right or all wrong tell no more than one of them."""
    one = drawn(0.5, 0, 1, 30)
    twenty, prompts = np.repeat(one, 20, axis=1), np.repeat(alone(one), 20, axis=1)
    found, of_one = resampled(twenty, prompts, 1), resampled(one, alone(one), 1)
    assert (found.mean, found.low, found.high) == pytest.approx((of_one.mean, of_one.low, of_one.high))
    assert found.high - found.low > 3 * (
        resampled(twenty, alone(twenty), 1).high - resampled(twenty, alone(twenty), 1).low
    )


def test_a_contrast_is_paired() -> None:
    one, other = Key(0.1, "pd"), Key(0.1, "all")
    values = drawn(0.6, 0)
    found = contrast({one: values, other: values - 0.01}, {one: 1, other: -1}, alone(values))
    assert found.low == pytest.approx(0.01)
    assert found.high == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("low", "high", "alike", "expected"),
    [
        (0.01, 0.05, False, HOLDS),
        (-0.05, -0.01, False, FAILS),
        (-0.01, 0.05, False, OPEN),
        (-TOLERANCE / 2, TOLERANCE / 2, True, HOLDS),
        (TOLERANCE * 2, TOLERANCE * 3, True, FAILS),
        (-TOLERANCE * 3, -TOLERANCE * 2, True, FAILS),
        (-TOLERANCE * 2, 0.0, True, OPEN),
        (0.0, TOLERANCE * 3, True, OPEN),
    ],
)
def test_a_verdict_is_what_the_interval_shows_and_no_more(low: float, high: float, alike: bool, expected: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high, 1), alike) == expected


def runs(means: dict[str, float], levels: list[float]) -> list[dict]:
    """Runs of three seeds whose figures have given means, the same for accuracy and win rate."""
    return [
        {
            "level": level,
            "seed": seed,
            "strategy": strategy,
            "setting": "",
            "right": right,
            "won": right,
            "prompts": list(range(len(right))),
        }
        for number, (strategy, mean) in enumerate(means.items())
        for level in levels
        for seed in range(3)
        for right in [drawn(mean, 100 * number + seed, 1).tolist()[0]]
    ]


def test_a_world_of_the_papers_shape_holds_and_its_opposite_does_not() -> None:
    paper = {"pd": 0.86, "dfpo": 0.8, "all": 0.62, "random": 0.6, "pd_mid": 0.6, "pd_high": 0.3, "sft": 0.5}
    found = verdicts(runs(paper, LEVELS), claims(LEVELS, 0.2))
    by_line = {row["line"]: row["accuracy_verdict"] for row in found}
    lead = "PD's lead over ALL is larger at 30% than at 10%"
    assert by_line.pop(lead) == OPEN  # the same figures at every level
    assert set(by_line.values()) == {HOLDS}
    assert len(by_line) == 2 * len(LEVELS) + 5
    opposite = {name: 1 - mean for name, mean in paper.items()}
    found = verdicts(runs(opposite, LEVELS), claims(LEVELS, 0.2))
    assert {row["accuracy_verdict"] for row in found if row["line"] != lead} == {FAILS}


def test_a_data_set_bears_out_lines_by_accuracy_alone() -> None:
    means = {"pd": 0.7, "dfpo": 0.7, "all": 0.6, "random": 0.55, "pd_mid": 0.6, "pd_high": 0.3, "sft": 0.5}
    found = [{name: run[name] for name in run if name != "won"} for run in runs(means, ["SummEval"])]  # type: ignore[list-item]
    rows = verdicts(found, claims_of_data(["SummEval", "hh-rlhf"]))
    assert [row["line"].partition(": ")[0] for row in rows] == ["SummEval"] * 6
    assert {row["line"]: row["accuracy_verdict"] for row in rows}["SummEval: PD beats RAND"] == HOLDS
    assert all("win_rate" not in row for row in rows + rows_of(found))


def test_a_lead_that_grows_is_seen() -> None:
    rows = [
        run | {"level": level}
        for level, means in ((0.1, {"pd": 0.7, "all": 0.68}), (0.3, {"pd": 0.7, "all": 0.5}))
        for run in runs(means, [level])
    ]
    (found,) = verdicts(rows, [one for one in claims([0.1, 0.3], 0.2) if "lead" in one.text])
    assert found["accuracy_verdict"] == HOLDS
    assert found["accuracy"][0] == pytest.approx(0.18, abs=0.05)


def test_lines_without_their_runs_are_left_out_and_only_common_seeds_count() -> None:
    found = runs({"pd": 0.8, "random": 0.5}, [0.1])
    claim = Claim("x", {Key(0.1, "pd"): 1, Key(0.1, "random"): -1})
    assert [row["line"] for row in verdicts(found, claims([0.1], 0.1))] == ["at 10% PD beats RAND"]
    assert verdicts(found[:-1], [claim])[0]["seeds"] == 2
    assert verdicts(found[:3], [claim]) == []


def test_rows_are_means_over_the_seeds() -> None:
    found = [run | {"conflict": run["seed"] / 10} for run in runs({"pd": 0.8}, [0.1])]
    (row,) = rows_of(found)
    assert (row["seeds"], row["conflict"]) == (3, 0.1)
    assert row["accuracy"][1] < row["accuracy"][0] < row["accuracy"][2]


def columns(count: int = 200) -> PairColumns:
    """Pairs with random margins and ratings."""
    rng = np.random.default_rng(0)
    own, margins = rng.integers(4, size=count), rng.normal(size=(count, 4))
    ids = [f"pair-{number:03}" for number in range(count)]
    return PairColumns(ids, own, margins, np.round(2 * margins), rng.integers(5, 40, size=(2, count)))


def test_pairs_that_an_aspect_labelled_do_not_scale_its_margins() -> None:
    pairs = columns()
    inflated = pairs.margins.copy()
    inflated[np.arange(len(pairs.own)), pairs.own] *= 1000
    before = divergence_of(pairs.margins, pairs.own, 0.9)
    np.testing.assert_array_equal(divergence_of(inflated, pairs.own, 0.9), before)


def test_strategies_choose_what_their_names_say() -> None:
    pairs = columns()
    chosen = {
        name: select(pairs, name, 0.3, 0.9, 0)
        for name in ("pd", "pd_high", "pd_mid", "pd_ratings", "random", "all", "longest", "mean_rating")
    }
    pd = chosen["pd"].divergence
    rank = {name: np.argsort(np.argsort(pd, kind="stable"))[one.rows] for name, one in chosen.items()}
    assert all(len(chosen[name].rows) == 60 for name in ("pd", "pd_high", "pd_mid", "pd_ratings", "random", "longest"))
    assert pd[chosen["pd"].rows].max() <= np.delete(pd, chosen["pd"].rows).min()
    assert pd[chosen["pd_high"].rows].min() >= np.delete(pd, chosen["pd_high"].rows).max()
    assert rank["pd_mid"].min() >= 60 and rank["pd_mid"].max() < 140
    assert pairs.tokens[0, chosen["longest"].rows].min() >= np.delete(pairs.tokens[0], chosen["longest"].rows).max()
    assert sorted(chosen["all"].rows) == list(range(200))
    assert not np.array_equal(chosen["random"].rows, select(pairs, "random", 0.3, 0.9, 1).rows)
    ratings = chosen["mean_rating"]
    np.testing.assert_array_equal(ratings.swapped, pairs.ratings.mean(axis=1)[ratings.rows] < 0)
    assert (pairs.ratings.mean(axis=1)[ratings.rows] != 0).all()
    assert not np.array_equal(chosen["pd_ratings"].divergence, pd)


def test_strategies_read_what_was_made_for_them() -> None:
    pairs, rng = columns(), np.random.default_rng(1)
    policy, reference = rng.normal(-20, 2, (2, 2, 200))
    pairs = replace(
        pairs,
        overall=rng.integers(-1, 2, 200),
        unified=rng.normal(size=200),
        known=LogProbs(policy, reference, pairs.tokens),
        losses=rng.random(200),
    )
    assert pairs.known is not None and pairs.overall is not None
    margin, gap = pairs.known.implicit_margin, np.abs(pairs.known.gap_per_token("policy"))
    own = pairs.own_margins()
    potential = (own - own.mean()) / own.std() - (gap - gap.mean()) / gap.std()
    expected = {
        "raf": -pairs.unified_margins(),
        "selective": pairs.validation_losses(),
        "implicit_margin": -margin,
        "implicit_margin_small": margin,
        "alignment_potential": -potential,
    }
    for name, keys in expected.items():
        found = select(pairs, name, 0.3, 0.9, 0)
        np.testing.assert_allclose(found.keys, keys)
        assert sorted(found.rows) == sorted(np.argsort(keys)[:60])
    overall = select(pairs, "overall", 0.3, 0.9, 0)
    assert sorted(overall.rows) == np.flatnonzero(pairs.overall).tolist()
    np.testing.assert_array_equal(overall.swapped, pairs.overall[overall.rows] < 0)
