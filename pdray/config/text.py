"""YAML to plain values, without what would be silently lost or grow without end."""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000


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
    return value


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in it, those behind a reference as often as they are referred to."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # what it is while it is counted: a reference to itself has no end
        known[id(value)] = 1 + sum(_count(one, known) for one in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]
