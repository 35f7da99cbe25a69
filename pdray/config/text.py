"""YAML to plain values, without what would be silently lost, grow without end, or stand in no JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import yaml

MOST_LETTERS = 2**20
MOST_VALUES = 100_000
MOST_LEVELS = 50
LARGEST = 2**64

Place = tuple[Any, ...]  # the keys that lead to a setting


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it is not YAML, is too long, has a key twice, or refers to itself; on one line.
    """
    if len(text) > MOST_LETTERS:
        raise ValueError(f"it is longer than {MOST_LETTERS >> 20} MiB, which no settings are")
    try:
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
        if tree is None:
            return None
        # Before values are made of it, while a reference is still one.
        if _count(tree, {}) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values, those behind references too; shorten it")
        value = loader.construct_document(tree)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
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


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in it, those behind a reference as often as they are referred to.

    Raises:
        yaml.MarkedYAMLError: a key stands twice, of which YAML takes the last one without a word.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # what it is while it is counted: a reference to itself has no end
        children = node.value
        if isinstance(node, yaml.MappingNode):
            _refuse_twice([key for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count(one, known) for one in children)
    return known[id(node)]


def _refuse_twice(keys: list[yaml.ScalarNode]) -> None:
    known: set[str] = set()
    for key in keys:
        if key.value in known and key.value != "<<":
            raise yaml.MarkedYAMLError(
                None, None, f"the key {key.value!r} stands there twice; keep one of them", key.start_mark
            )
        known.add(key.value)
