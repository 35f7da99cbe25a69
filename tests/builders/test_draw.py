"""From rated responses to one labelled pair."""

from __future__ import annotations

from collections import Counter

import pytest

from pdray.builders.draw import FEW, TIE, UNRATED, draw
from pdray.builders.units import Unit

ASPECTS = ("help", "truth")


def unit(*rated, prompt="q"):
    return Unit(prompt, [text for text, *_ in rated], [dict(zip(ASPECTS, two, strict=True)) for _, *two in rated])


def test_the_chosen_response_is_rated_higher_on_the_aspect_that_was_drawn():
    for i in range(50):
        pair = draw(unit(("a", 1, 4), ("b", 2, 3), ("c", 3, 2), prompt=f"q{i}"), ASPECTS, 0)
        assert pair[f"score_chosen.{pair['aspect']}"] > pair[f"score_rejected.{pair['aspect']}"]
        assert {pair["chosen"], pair["rejected"]} < {"a", "b", "c"}


def test_the_draw_minds_neither_the_order_of_responses_nor_a_response_that_comes_twice():
    rated = [("a", 1, 4), ("b", 2, 3), ("c", 3, 2), ("d", 4, 1)]
    pair = draw(unit(*rated), ASPECTS, 0)
    assert draw(unit(*rated[::-1]), ASPECTS, 0) == pair
    assert draw(unit(*rated, rated[0]), ASPECTS, 0) == pair


def test_aspects_and_pairs_are_drawn_evenly_and_by_the_seed():
    units = [unit(("a", 1, 4), ("b", 2, 3), ("c", 3, 2), prompt=f"q{i}") for i in range(900)]
    pairs = [draw(one, ASPECTS, 0) for one in units]
    assert 400 < Counter(pair["aspect"] for pair in pairs)["help"] < 500
    counts = Counter(frozenset((pair["chosen"], pair["rejected"])) for pair in pairs)
    assert len(counts) == 3 and all(250 < count < 350 for count in counts.values())
    assert [draw(one, ASPECTS, 1) for one in units] != pairs


@pytest.mark.parametrize(
    ("rated", "reason"),
    [
        ([("a", 1, 1)], FEW),
        ([("a", 1, 1), ("a", 2, 2)], FEW),
        ([("a", 1, 1), ("", 2, 2)], FEW),
        ([("a", 1, 1), ("b", 1, 1)], TIE),
        ([("a", None, None), ("b", 1, 1)], UNRATED),
    ],
)
def test_what_cannot_be_told_apart_gives_no_pair(rated, reason):
    assert draw(unit(*rated), ASPECTS, 0) == reason


def test_a_tie_on_the_drawn_aspect_gives_no_pair_of_another():
    found = Counter(
        one if isinstance(one := draw(unit(("a", 1, 1), ("b", 1, 2), prompt=f"q{i}"), ASPECTS, 0), str) else "pair"
        for i in range(400)
    )
    assert set(found) == {TIE, "pair"}
    assert 160 < found[TIE] < 240


@pytest.mark.parametrize(
    ("other", "overall"), [((1, 5), "rejected"), ((2, 4), "equal"), ((3, 4), "chosen"), ((None, 4), "chosen")]
)
def test_overall_is_the_mean_of_what_both_are_rated_on(other, overall):
    rated = Unit("q", ["a", "b"], [{"x": 3.0, "y": other[0]}, {"x": 1.0, "y": other[1]}])
    seeds = (draw(rated, ("x", "y"), seed) for seed in range(20))
    assert next(pair for pair in seeds if not isinstance(pair, str) and pair["aspect"] == "x")["overall"] == overall
