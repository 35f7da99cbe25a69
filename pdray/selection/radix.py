"""Order statistics by radix: floats and ids as digits that sort as they do, counted over blocks of any size.

Counting the digits of a number of 16 bits takes 65,536 counters, however many values there are; the digit that holds
the wanted rank is found by adding them up, and the values that begin with it are counted by their next digit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGIT_BITS = 16
DIGITS = 1 << DIGIT_BITS
NOT_FINITE = np.uint64(2**64 - 1)
# A digit of an id is its next two bytes; 0 stands for the end of the id and comes before every byte.
SYMBOLS = 257
ID_DIGITS = SYMBOLS * SYMBOLS


def size_bits(values: np.ndarray) -> np.ndarray:
    """Bits of |values|, an integer per value that sorts as the size does.

    Args:
        values: (n,) float32.

    Returns:
        (m,) uint32 of the finite values.
    """
    sizes = np.abs(np.asarray(values, np.float32))
    bits: np.ndarray = sizes[np.isfinite(sizes)].view(np.uint32)
    return bits


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """Bits of floats, an integer per value that sorts as the value does.

    Args:
        values: (n,) float64 without −0.0, which would come before 0.0.

    Returns:
        (n,) uint64; :data:`NOT_FINITE`, above all others, where the value is NaN or infinite.
    """
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    negative = (bits.view(np.int64) >> np.int64(63)).view(np.uint64)
    return np.where(np.isfinite(values), bits ^ (negative | np.uint64(1 << 63)), NOT_FINITE)


def float_of(bits: int) -> float:
    """The value whose :func:`ordered_bits` these are."""
    whole = np.array([bits], np.uint64)
    plain = np.where(whole >> np.uint64(63), whole ^ np.uint64(1 << 63), ~whole)
    return float(plain.view(np.float64)[0])


def digit_counts(bits: np.ndarray, prefix: int, level: int) -> np.ndarray:
    """How often each next digit follows the digits found so far.

    Args:
        bits: (n,) uint32 or uint64.
        prefix: the digits above ``level`` as one number.
        level: place of the digit, 0 for the highest.

    Returns:
        (65536,) int64.
    """
    kind = bits.dtype.type
    below = 8 * bits.dtype.itemsize - DIGIT_BITS * (level + 1)
    shifted = bits >> kind(below)
    if level:
        shifted = shifted[(shifted >> kind(DIGIT_BITS)) == kind(prefix)]
    counts: np.ndarray = np.bincount((shifted & kind(DIGITS - 1)).astype(np.int64), minlength=DIGITS)
    return counts


def locate(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The digit that holds a rank, and the rank among the values with that digit.

    Args:
        counts: values of each digit, ascending.
        rank: from 1.
    """
    ends = np.cumsum(counts)
    digit = int(np.searchsorted(ends, rank))
    return digit, rank - int(ends[digit] - counts[digit])


def common_prefix(first: bytes, last: bytes) -> bytes:
    """What every id between two ids begins with."""
    length = min(len(first), len(last))
    return first[: next((i for i in range(length) if first[i] != last[i]), length)]


def starts_with(ids: pa.Array, prefix: bytes) -> np.ndarray:
    """Which ids begin with some bytes, (n,) bool; the bytes may end inside a character."""
    found: np.ndarray = pc.starts_with(ids.view(pa.binary()), prefix).to_numpy(zero_copy_only=False)
    return found


def id_digit_counts(ids: pa.Array, position: int) -> np.ndarray:
    """How often each pair of bytes stands at a position of some ids.

    Args:
        ids: n strings of at least ``position`` bytes.
        position: bytes before the digit.

    Returns:
        (66049,) int64; see :func:`digit_bytes`.
    """
    first = _symbols(ids, position)
    digits = first * SYMBOLS + np.where(first > 0, _symbols(ids, position + 1), 0)
    return np.bincount(digits, minlength=ID_DIGITS)


def digit_bytes(digit: int) -> tuple[bytes, bool]:
    """The bytes of a digit of an id, and whether the id ends with them."""
    symbols = divmod(digit, SYMBOLS)
    return bytes(symbol - 1 for symbol in symbols if symbol), 0 in symbols


def _symbols(ids: pa.Array, position: int) -> np.ndarray:
    """The byte at a position of each id plus 1, or 0 where the id has ended."""
    buffers: list[Any] = ids.buffers()
    offsets = np.frombuffer(buffers[1], np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    places = offsets[:-1] + position
    inside = places < offsets[1:]
    symbols = np.zeros(len(ids), np.int64)
    if inside.any():
        symbols[inside] = np.frombuffer(buffers[2], np.uint8)[places[inside]].astype(np.int64) + 1
    return symbols
