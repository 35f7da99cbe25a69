"""One row in, one checked pair or one reason out. Pure functions on plain Python values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from pdray.hashing import digest, hash64

Text = str | list[dict[str, str]]

RESPONSE_ROLE = "assistant"
EQUAL_RATINGS = "equal on every aspect"
ONLY_RESPONSE = "only response to its prompt"
SAME_RESPONSE = "same response twice"
# Rules that leave a row out although nothing is wrong with it: counted, not quarantined.
DROPPED = (EQUAL_RATINGS, ONLY_RESPONSE, SAME_RESPONSE)


class BadRowError(Exception):
    """The row cannot be used; the message is the quarantine reason."""


class NotDecodable:
    """Stands for bytes that are not UTF-8."""


@dataclass(frozen=True)
class RowRules:
    """What a row must look like.

    Attributes:
        columns: our column name -> the user's.
        aspects: accepted aspects; None accepts any (kind pairs).
        ratings: aspect -> the user's columns with its rating: (chosen, rejected), (a, b) or (response,).
        conversational: whether the corpus holds messages.
        seed: of the draw of an aspect.
    """

    columns: dict[str, str]
    aspects: tuple[str, ...] | None = None
    ratings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    conversational: bool = False
    seed: int = 0


def check_pair(raw: dict[str, Any], rules: RowRules) -> dict[str, Any]:
    """A row of kind ``pairs`` as a corpus row.

    Raises:
        BadRowError: a rule is broken.
    """
    pair: dict[str, Any] = {
        "prompt": _text(raw, "prompt", rules, "user"),
        "chosen": _text(raw, "chosen", rules, RESPONSE_ROLE),
        "rejected": _text(raw, "rejected", rules, RESPONSE_ROLE),
        "aspect": _plain(raw, "aspect", rules),
    }
    if pair["chosen"] == pair["rejected"]:
        raise BadRowError("equal responses")
    if rules.aspects is not None and pair["aspect"] not in rules.aspects:
        raise BadRowError("unknown aspect")
    pair["pair_id"] = _pair_id(raw, rules) or digest(*(canonical(pair[key]) for key in sorted(pair)))
    for aspect, (chosen, rejected) in rules.ratings.items():
        pair[f"score_chosen.{aspect}"] = _rating(raw, chosen)
        pair[f"score_rejected.{aspect}"] = _rating(raw, rejected)
    return pair | _optional(raw, rules)


def check_rated_pair(raw: dict[str, Any], rules: RowRules) -> dict[str, Any] | None:
    """A row with two rated responses as a corpus row; None if the ratings are equal on every aspect.

    Raises:
        BadRowError: a rule is broken.
    """
    prompt = _text(raw, "prompt", rules, "user")
    first = _text(raw, "response_a", rules, RESPONSE_ROLE)
    second = _text(raw, "response_b", rules, RESPONSE_ROLE)
    if first == second:
        raise BadRowError("equal responses")
    ratings = {aspect: (_rating(raw, a), _rating(raw, b)) for aspect, (a, b) in rules.ratings.items()}
    if all(None in pair for pair in ratings.values()):
        raise BadRowError("no rating")
    pair_id = _pair_id(raw, rules) or digest(canonical(prompt), canonical(first), canonical(second))
    pair = draw_pair(pair_id, prompt, (first, second), ratings, rules.seed)
    return pair and pair | _optional(raw, rules)


def check_response(raw: dict[str, Any], rules: RowRules) -> dict[str, Any]:
    """A row with one rated response, checked: prompt, response and ``rating.<aspect>``.

    Raises:
        BadRowError: a rule is broken.
    """
    row: dict[str, Any] = {
        "prompt": _text(raw, "prompt", rules, "user"),
        "response": _text(raw, "response", rules, RESPONSE_ROLE),
    }
    ratings = {f"rating.{aspect}": _rating(raw, column) for aspect, (column,) in rules.ratings.items()}
    if all(value is None for value in ratings.values()):
        raise BadRowError("no rating")
    return row | ratings | _optional(raw, rules)


def pairs_of_responses(responses: list[dict[str, Any]], rules: RowRules) -> list[dict[str, Any]]:
    """Every pair of different responses to one prompt.

    Args:
        responses: rows of :func:`check_response` that share their prompt.

    Returns:
        corpus rows, and ``{"reason": ...}`` for each pair that is equal on every aspect, for a response that stands
        there once more, and for one that has no other to be compared with.
    """
    distinct = {canonical(row["response"]): row for row in sorted(responses, key=canonical, reverse=True)}
    pairs: list[dict[str, Any]] = [{"reason": SAME_RESPONSE}] * (len(responses) - len(distinct))
    if len(distinct) == 1:
        pairs.append({"reason": ONLY_RESPONSE})
    for one, other in combinations([distinct[key] for key in sorted(distinct)], 2):
        ratings = {aspect: (one[f"rating.{aspect}"], other[f"rating.{aspect}"]) for aspect in rules.ratings}
        texts = one["response"], other["response"]
        pair_id = digest(canonical(one["prompt"]), *map(canonical, texts))
        pair = draw_pair(pair_id, one["prompt"], texts, ratings, rules.seed)
        extra = {"overall": one.get("overall"), "source": one.get("source")}
        pairs.append({"reason": EQUAL_RATINGS} if pair is None else pair | extra)
    return pairs


def draw_pair(
    pair_id: str, prompt: Text, responses: tuple[Text, Text], ratings: dict[str, tuple[Any, Any]], seed: int
) -> dict[str, Any] | None:
    """Label two responses by one aspect, drawn among those whose ratings differ.

    The draw depends on ``seed`` and ``pair_id`` alone, never on the order of rows.

    Args:
        ratings: aspect -> ratings of both responses, None where there is none.

    Returns:
        the corpus row, or None if no aspect tells the responses apart.
    """
    unequal = sorted(aspect for aspect, (a, b) in ratings.items() if None not in (a, b) and a != b)
    if not unequal:
        return None
    aspect = unequal[int(hash64([pair_id], f"{seed} aspect")[0]) % len(unequal)]
    better = 0 if ratings[aspect][0] > ratings[aspect][1] else 1
    pair: dict[str, Any] = {
        "pair_id": pair_id,
        "prompt": prompt,
        "chosen": responses[better],
        "rejected": responses[1 - better],
        "aspect": aspect,
    }
    for name, values in ratings.items():
        pair[f"score_chosen.{name}"] = values[better]
        pair[f"score_rejected.{name}"] = values[1 - better]
    return pair


def canonical(value: Any) -> str:
    """One text for one value, whatever the order of its keys."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _text(raw: dict[str, Any], name: str, rules: RowRules, role: str) -> Text:
    value = _present(raw, name, rules)
    if isinstance(value, str):
        text = _utf8(value, name)
        return [{"role": role, "content": text}] if rules.conversational else text
    if not isinstance(value, list):
        raise BadRowError(f"not text: {name}")
    if not rules.conversational:
        raise BadRowError(f"messages in a corpus of strings: {name}")
    messages = [_message(message, name) for message in value]
    needed = messages[-1:] if role == RESPONSE_ROLE else messages
    if not any(message["content"].strip() for message in needed):
        raise BadRowError(f"empty field: {name}")
    return messages


def _message(message: Any, name: str) -> dict[str, str]:
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise BadRowError(f"not a message with role and content: {name}")
    return {key: _utf8(message[key], name) for key in ("role", "content")}


def _plain(raw: dict[str, Any], name: str, rules: RowRules) -> str:
    value = _present(raw, name, rules)
    if not isinstance(value, str):
        raise BadRowError(f"not text: {name}")
    return _utf8(value, name)


def _present(raw: dict[str, Any], name: str, rules: RowRules) -> Any:
    value = _decoded(raw, name, rules)
    if value is None:
        raise BadRowError(f"missing field: {name}")
    if value == [] or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"empty field: {name}")
    return value


def _decoded(raw: dict[str, Any], name: str, rules: RowRules) -> Any:
    value = raw.get(rules.columns[name])
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = NotDecodable()
    if isinstance(value, NotDecodable):
        raise BadRowError(f"not UTF-8: {name}")
    return value


def _utf8(text: str, name: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRowError(f"not UTF-8: {name}") from None
    return text


def _pair_id(raw: dict[str, Any], rules: RowRules) -> str | None:
    column = rules.columns["pair_id"]
    if column not in raw:
        return None
    value = _present(raw, "pair_id", rules)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRowError("not text: pair_id")
    return _utf8(str(value), "pair_id")


def _rating(raw: dict[str, Any], column: str) -> float | None:
    value = raw.get(column)
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRowError(f"rating not a number: {column}") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise BadRowError(f"rating not a number: {column}")
    return number


def _optional(raw: dict[str, Any], rules: RowRules) -> dict[str, Any]:
    values = {name: _decoded(raw, name, rules) for name in ("overall", "source")}
    return {name: None if value is None else _utf8(str(value), name) for name, value in values.items()}
