"""Settings with a key or password in them, which would stand in manifests and logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pdray.config.text import Place
from pdray.paths import holds_secret

HANDED_ON = {"engine_args", "extra_body", "deepspeed"}  # as they are, to what may ask for keys
NAMES = re.compile(
    r"(key|token|secret|password|passwd|pwd|passphrase|authorization|auth|bearer|credentials?)|"
    r".*[._ -](keys|secrets|passwords)|.*(key|token|secret|password|passwd|pwd|authorization|credentials?)",
    re.IGNORECASE,
)
# What services begin their keys with.
KEY = re.compile(
    r"(sk-|[sr]k_(live|test)_|nvapi-|gsk_|gh[pousr]_|github_pat_|glpat-|xox[abp]-|AIza)[A-Za-z0-9_-]{16,}|"
    r"hf_[A-Za-z0-9]{8,}|A[KS]IA[A-Z0-9]{16}|[Bb]earer\s.+"
)


def secrets(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Settings with a secret in them, each with a sentence as :func:`~pdray.config.text.odd_values` has it."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from secrets(child, (*place, key))
    elif isinstance(value, list):
        for child in value:
            yield from secrets(child, place)
    elif isinstance(value, str) and (holds_secret(value) or (HANDED_ON & set(place) and _is_key(place, value))):
        yield (
            place,
            "holds a key or password, which would stand in manifests and logs; take it out and give the credentials "
            "by environment variables or a profile of the storage",
        )


def looks_like_key(text: str) -> bool:
    """Whether a text is written as services write their keys."""
    return KEY.fullmatch(text.strip()) is not None


def _is_key(place: Place, value: str) -> bool:
    """Whether a setting has a name that keys and passwords have, or is written as one."""
    return NAMES.fullmatch(str(place[-1])) is not None or looks_like_key(value)
