"""YAML to plain values, without what would be silently lost, grow without end, or stand in no JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import yaml

MOST_VALUES = 100_000
MOST_LEVELS = 50
LARGEST = 2**64

Place = tuple[Any, ...]  # the keys that lead to a setting


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML takes the last one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for (key, _), value in zip(node.value, keys, strict=False):
            if keys.count(value) > 1 and value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {value!r} stands there twice; keep one of them", key.start_mark
                )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it is not YAML, has a key twice, or refers to itself; on one line.
    """
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    if _count(value, {}) > MOST_VALUES:
        raise ValueError(f"its references make more than {MOST_VALUES:,} values of it; write them out")
    if _levels(value) > MOST_LEVELS:
        raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels")
    return value


def odd_values(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Settings that a run folder cannot keep, each with a sentence without its beginning, the name of the setting.

    YAML makes dates, sets and bytes as well, and NUL is the end of every path.
    """
    if isinstance(value, dict):
        for key, child in value.items():
            if isinstance(key, str) and not _is_plain(key):
                yield (*place, key), "has a name with NUL or half a character in it; write another"
            yield from odd_values(child, (*place, key))
    elif isinstance(value, list):
        for child in value:
            yield from odd_values(child, place)
    elif isinstance(value, str):
        if not _is_plain(value):
            yield place, f"is {value!r}, which holds NUL or half a character; write another text"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield place, f"is {value}, but has to be a finite number; write one"
    elif isinstance(value, int):
        if abs(value) >= LARGEST:
            yield place, "is a number of more than 64 bits; write a smaller one"
    elif value is not None:
        yield place, f"is a {type(value).__name__} of YAML; put quotes around it to write it as text"


def _is_plain(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        return False


def _levels(value: Any) -> int:
    """How deep a value without references to itself is nested; beyond MOST_LEVELS no more is counted."""
    deepest, level = 0, [value]
    while level and deepest <= MOST_LEVELS:
        deepest += 1
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return deepest


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in it, those behind a reference as often as they are referred to."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # what it is while it is counted: a reference to itself has no end
        known[id(value)] = 1 + sum(_count(one, known) for one in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]
