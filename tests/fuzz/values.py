"""Values that stand where others should: of other types, too large, too long, too deep, of odd characters."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pdray.config import RunConfig, Section, section_of

DEEP: Any = "x"
for _ in range(300):
    DEEP = [DEEP]

ODD_TEXTS = [
    "", " ", "\n", "~", "null", "true", ".", "..", "/", "//", "*", "**", "[", "{", "}", "%", "%s", "%zz", "\\", "'",
    '"', "#",
    "a\x00b", "\ud800", "a\udcffb", "\u2028", "\x1b[2J", "\x85", "\ufeff", "é", "e\u0301", "日本", "a" * 5_000,
    "a/" * 500,
    "-", "--", "=", "a=b", ":", "a: b", "&a", "*a", "!!python/name:os.system", "<<", "str", "1e5", "1_000", "0x1f",
    "nan",
    "../../etc", "/dev/null", "/proc/self/mem", "file:///tmp", "s3://", "://", "x://y", "http://", "memory://x",
    "s3://a:b@c/d", "https://t@h", "~nobody/x", "$HOME", "a\tb", "a\rb",
]  # fmt: skip
ODD_NUMBERS = [0, 1, -1, 2, 3, 7, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**63, 2**64, 10**30, 10**400]
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
ODD_SHAPES: list[Any] = [None, True, False, [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": ""}, {"a": {"b": []}}, DEEP]

LIKELY: list[Any] = [
    0, 0.001, 0.1, 0.5, 1, 1.0, 2, 8, 31, 64, 1000, "0.5", "2", None, True, False, "pd", "pd_high", "random",
    "kept", "all",
    "none", "sort", "pairs", "rated", "head", "apart", "together", "auto", "residual", "vllm", "transformers",
    "float32",
    "bfloat16", "float16", "start", "sdpa", "prompt", "aspect", "helpful", ["helpful", "honest"], ["aspect"], {},
    {"helpful": "x", "honest": "y"}, {"path": "x", "labels": {"helpful": 0, "honest": 1}}, {"a": {"b": 1}},
    "policy", "runs/x",
]  # fmt: skip

likely = st.sampled_from(LIKELY)
numbers = st.sampled_from(ODD_NUMBERS) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.sampled_from(ODD_TEXTS) | st.text(st.characters(exclude_categories=()), max_size=20)
scalars = st.sampled_from(ODD_SHAPES) | st.sampled_from(NOT_FINITE) | numbers | texts
values = scalars | st.lists(scalars, max_size=4) | st.dictionaries(texts, scalars, max_size=4)


def settings_of(section: type[Section] = RunConfig, prefix: str = "") -> list[str]:
    """Dotted names of every setting and every section."""
    names = []
    for name, field in section.model_fields.items():
        names.append(f"{prefix}{name}")
        if inner := section_of(field):
            names += settings_of(inner, f"{prefix}{name}.")
    return names
