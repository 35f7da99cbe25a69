"""Groups of a quota: their names, and how a budget is shared out to them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdray.errors import UserError
from pdray.selection.groups import (
    MOST_GROUPS,
    GroupCounts,
    count_groups,
    in_order,
    length_groups,
    named_groups,
    shared_out,
)


def test_lengths_are_named_by_powers_of_two():
    names = length_groups(np.array([0, 1, 2, 3, 4, 63, 64, 127, 128]))
    assert names.to_pylist() == [
        *("0 tokens", "1-1 tokens", "2-3 tokens", "2-3 tokens", "4-7 tokens"),
        *("32-63 tokens", "64-127 tokens", "64-127 tokens", "128-255 tokens"),
    ]
    assert length_groups(np.array([], np.int64)).to_pylist() == []


def test_a_pair_without_a_source_has_a_name_too():
    names = named_groups(pa.chunked_array([["web", None], ["book"]], pa.string()), "source")
    assert names.to_pylist() == ["web", "no source", "book"]
    first, none = count_groups(names, np.array([True, True, False]), np.zeros(3, bool))
    assert (first, none) == ({"web": 1, "no source": 1}, {})


def test_lengths_are_listed_by_size_and_others_by_name():
    assert in_order(["128-255 tokens", "0 tokens", "64-127 tokens"]) == ["0 tokens", "64-127 tokens", "128-255 tokens"]
    assert in_order(["b", "10-k", "a"]) == ["10-k", "a", "b"]


@given(
    counts=st.dictionaries(st.text(max_size=3), st.integers(1, 10**12), min_size=1, max_size=9),
    share=st.floats(0, 1),
)
def test_a_budget_is_shared_out_whole_and_in_proportion(counts, share):
    total = sum(counts.values())
    wanted = int(share * total)
    parts = shared_out(wanted, counts)
    assert sum(parts.values()) == wanted and list(parts) == sorted(counts)
    for name, part in parts.items():
        assert part <= counts[name] and abs(part * total - wanted * counts[name]) < total


def test_the_largest_remainders_get_what_is_left():
    assert shared_out(10, {"a": 47, "b": 16, "c": 37}) == {"a": 5, "b": 1, "c": 4}
    assert shared_out(1, {"b": 5, "a": 5}) == {"a": 1, "b": 0}


def test_more_groups_than_a_quota_takes_are_refused():
    half = GroupCounts("source", {f"left {i}": 1 for i in range(MOST_GROUPS // 2 + 1)})
    with pytest.raises(UserError, match=r"selection\.quota is source, of which the corpus has more than 64"):
        half + GroupCounts("source", {f"right {i}": 1 for i in range(MOST_GROUPS // 2)})


def test_a_label_that_is_called_as_pairs_without_one_are_counts_with_them():
    names = named_groups(pa.chunked_array([["no source", None, "web"]], pa.string()), "source")
    assert count_groups(names, np.ones(3, bool)) == [{"no source": 2, "web": 1}]
