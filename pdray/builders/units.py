"""What a layout reads: the rated responses to one prompt. Pure Python on plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pdray.corpus.rows import Text
from pdray.errors import UserError
from pdray.paths import is_utf8

Rows = Iterator[tuple[dict[str, Any], str]]  # of a file, each with where it stands

NO_TEXT = "no text in the prompt"
NOT_GIVEN = ("N/A", "")


@dataclass(frozen=True)
class Unit:
    """The responses of which at most one pair is made.

    Attributes:
        prompt: a string, or messages.
        responses: their texts.
        ratings: of each response, aspect -> rating, None where there is none.
        source: of the prompt within the data set, for example a subset.
        rows: how many rows of the input it is made of.
        reason: why nothing can be made of it, None where it can.
    """

    prompt: Text
    responses: list[str]
    ratings: list[dict[str, float | None]]
    source: str | None = None
    rows: int = 1
    reason: str | None = field(default=None)


def unusable(reason: str, rows: int = 1) -> Unit:
    """A unit that counts, and gives no pair."""
    return Unit("", [], [], rows=rows, reason=reason)


def text_of(row: dict[str, Any], column: str, where: str) -> str:
    """A text; empty where there is none.

    Raises:
        UserError: it is something else.
    """
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {column} is {_shown(value)}, but a text is needed there; mend the row")
    if not value.isascii() and not is_utf8(value):
        raise UserError(
            f"{where}: {column} holds half a character (a lone surrogate), which is not UTF-8; mend the row"
        )
    return value if value.strip() else ""


def rating_of(value: Any, column: str, where: str) -> float | None:
    """A rating as a number; None where there is none: null, NaN or "N/A".

    Raises:
        UserError: it is something else.
    """
    if value is None or (isinstance(value, str) and value.strip() in NOT_GIVEN):
        return None
    try:
        number = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isinf(number):
        raise UserError(f"{where}: {column} is {_shown(value)}, but a rating is a number or N/A; mend the row")
    return None if math.isnan(number) else number


def choice_of(row: dict[str, Any], column: str, where: str) -> int:
    """Which of two responses a column names, 0 or 1.

    Raises:
        UserError: it names neither.
    """
    value = row.get(column)
    if isinstance(value, bool) or value not in (0, 1):
        raise UserError(f"{where}: {column} is {_shown(value)}, but it names a response, 0 or 1; mend the row")
    return int(value)


def turns_of(value: Any, column: str, where: str) -> list[dict[str, str]]:
    """Messages; an empty list where there are none.

    Raises:
        UserError: it is something else.
    """
    turns: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns):
        raise UserError(
            f"{where}: {column} is {_shown(value)}, but a list of {{role, content}} is needed; mend the row"
        )
    return [{key: text_of(turn, key, where) for key in ("role", "content")} for turn in turns]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
