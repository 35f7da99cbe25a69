"""Digits sort as the numbers and ids that they are taken from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pdray.selection.radix import (
    NOT_FINITE,
    SYMBOLS,
    common_prefix,
    digit_bytes,
    digit_counts,
    id_digit_counts,
    locate,
    ordered_bits,
    size_bits,
    starts_with,
)


def test_size_bits_sort_as_the_sizes_do_and_leave_out_what_is_not_finite():
    values = np.array([3.5, -1e-30, 0.0, -7.25, 1e30, 2.0], np.float32)
    np.testing.assert_array_equal(np.argsort(size_bits(values)), np.argsort(np.abs(values)))
    assert len(size_bits(np.array([np.nan, np.inf, -np.inf, 1.0], np.float32))) == 1


def test_ordered_bits_sort_as_the_values_do():
    values = np.array([-2.0, -1.5, -1e-300, 0.0, 5e-324, 1.0, 1e300])
    bits = ordered_bits(values[::-1])[::-1]
    assert bits.dtype == np.uint64
    assert (bits[:-1] < bits[1:]).all()


def test_what_is_not_finite_comes_after_everything():
    bits = ordered_bits(np.array([np.nan, -np.nan, np.inf, -np.inf, np.finfo(float).max]))
    assert (bits[:4] == NOT_FINITE).all()
    assert bits[4] < NOT_FINITE


def test_counts_follow_a_prefix():
    bits = np.array([0x0001_0002, 0x0001_0005, 0x0002_0002], np.uint32)
    assert digit_counts(bits, 0, 0)[[1, 2]].tolist() == [2, 1]
    assert np.flatnonzero(digit_counts(bits, 1, 1)).tolist() == [2, 5]


def test_the_digit_of_a_rank():
    counts = np.array([0, 3, 0, 2])
    assert [locate(counts, rank) for rank in (1, 3, 4, 5)] == [(1, 1), (1, 3), (3, 1), (3, 2)]


IDS = ["a", "ab", "aé", "b", "ba", "zz", "日本", "日本語", "🙂"]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_digits_of_ids_sort_as_the_ids_do(position):
    """Ids with one digit are one run of the sorted ids; a slice has offsets that do not begin at 0."""
    ids = pa.array(["skipped", *IDS]).slice(1)
    long_enough = [text.encode() for text in IDS if len(text.encode()) >= position]
    wanted = np.bincount([digit_of(text[position:]) for text in long_enough], minlength=SYMBOLS**2)
    kept = ids.filter(pa.array([len(text.encode()) >= position for text in IDS]))
    np.testing.assert_array_equal(id_digit_counts(kept, position), wanted)


def digit_of(rest: bytes) -> int:
    first = rest[0] + 1 if rest else 0
    second = rest[1] + 1 if len(rest) > 1 else 0
    return first * SYMBOLS + second


def test_bytes_of_a_digit():
    assert digit_bytes(digit_of(b"")) == (b"", True)
    assert digit_bytes(digit_of(b"x")) == (b"x", True)
    assert digit_bytes(digit_of(b"x\x00")) == (b"x\x00", False)


def test_a_prefix_may_end_inside_a_character():
    ids = pa.array(["é", "è", "e"])
    assert starts_with(ids, "é".encode()[:1]).tolist() == [True, True, False]
    assert common_prefix("é".encode(), "è".encode()) == b"\xc3"
    assert common_prefix(b"pair-1", b"pair-12") == b"pair-1"
