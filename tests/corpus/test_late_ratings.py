"""Which ratings count: those of the aspects; one that the first rows do not show would not, and stops the run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pdray.config import CorpusConfig
from pdray.corpus.check import check_pairs
from pdray.corpus.form import form_and_rules
from pdray.corpus.lines import FILE, LINE
from pdray.corpus.read import RawCorpus
from pdray.errors import UserError
from tests.corpus.cases import lines, rows

RATINGS = {f"score_{side}.{aspect}": 1 for side in ("chosen", "rejected") for aspect in "ab"}
COUNTER: Any = SimpleNamespace(add=lambda count: None)


def check(first: list[dict[str, Any]], data: list[dict[str, Any]], aspects: list[str] | None = None) -> pa.Table:
    """The rows checked by rules that saw the first ones alone."""
    raw = RawCorpus([], frozenset(key for row in first for key in row), conversational=False)
    _, rules = form_and_rules(CorpusConfig(kind="pairs", path="in.jsonl", aspects=aspects), raw, 0)
    table = pa.table({LINE: lines(data).splitlines(), FILE: ["in.jsonl"] * len(data)})
    return check_pairs(table, rules, rated=False, counter=COUNTER)


def test_a_rating_that_appears_late_stops_the_run() -> None:
    with pytest.raises(UserError, match=r"^in\.jsonl has the rating 'score_chosen\.a', which none of"):
        check(rows(2), rows(2) + rows(1, **RATINGS))


def test_a_licence_that_appears_late_stops_the_run() -> None:
    with pytest.raises(UserError, match=r"^in\.jsonl has the licence 'license', .* null where there is no licence"):
        check(rows(2), rows(2) + rows(1, license="mit"))
    data = [*rows(1, license="mit"), *rows(1)]
    assert check(data, data)["license"].to_pylist() == ["mit", None]


def test_other_columns_may_appear_late_and_ratings_from_the_first_row() -> None:
    assert len(check(rows(2), rows(2, note="late"))) == 2
    assert len(check(rows(2, **RATINGS), rows(2, **RATINGS))) == 2


def test_ratings_outside_the_listed_aspects_do_not_count() -> None:
    data = rows(2, **RATINGS, **{"score_chosen.overall": 9, "score_rejected.overall": 1}, overall="rejected")
    assert {"score_chosen.a", "score_chosen.b", "score_chosen.overall"} < set(check(data, data).column_names)
    listed = check(data, data, ["a", "b"])
    assert {name for name in listed.column_names if name.startswith("score_")} == set(RATINGS)
    assert listed["overall"].to_pylist() == ["rejected"] * 2
