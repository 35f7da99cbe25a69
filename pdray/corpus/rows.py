"""One row in, one checked pair or one reason out. Pure functions on plain Python values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from pdray.corpus.turns import PROMPT_ROLES, RESPONSE_ROLE, Messages, shared_text, shared_turns, split_repeated
from pdray.hashing import digest, hash64

Text = str | Messages

NO_PROMPT = "no prompt: the responses share no beginning"
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
        implicit_prompt: whether there is no prompt column, and the prompt is what the responses begin with.
        partition_columns: columns whose values are folder names.
        seed: of the draw of an aspect.
        rating_prefixes: what the names of rating columns begin with, where they are found by name.
        known_columns: that the schemas and first rows have.
        licensed: whether there is a column of licences.
    """

    columns: dict[str, str]
    aspects: tuple[str, ...] | None = None
    ratings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    conversational: bool = False
    implicit_prompt: bool = False
    partition_columns: tuple[str, ...] = ()
    seed: int = 0
    rating_prefixes: tuple[str, ...] = ()
    known_columns: frozenset[str] = frozenset()
    licensed: bool = False

    @property
    def carried(self) -> list[str]:
        """Our columns of names that a pair has beside its texts and its aspect."""
        return ["overall", "source", *(["license"] if self.licensed else [])]

    def late_column(self, raw: dict[str, Any]) -> str | None:
        """A rating or licence in a row that the schemas and first rows did not show, so that nothing reads it."""
        names, license = raw.keys() - self.known_columns, self.columns.get("license")
        return min((name for name in names if name == license or name.startswith(self.rating_prefixes)), default=None)


def check_pair(raw: dict[str, Any], rules: RowRules) -> dict[str, Any]:
    """A row of kind ``pairs`` as a corpus row, and whether its responses repeated the prompt.

    Raises:
        BadRowError: a rule is broken.
    """
    prompt, (chosen, rejected), repeated = row_texts(raw, ("chosen", "rejected"), rules)
    aspect = _plain(raw, "aspect", rules)
    pair: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "aspect": aspect}
    if pair["chosen"] == pair["rejected"]:
        raise BadRowError("equal responses")
    if rules.aspects is not None and pair["aspect"] not in rules.aspects:
        raise BadRowError("unknown aspect")
    pair["pair_id"] = _pair_id(raw, rules) or digest(*(canonical(pair[key]) for key in sorted(pair)))
    for name, columns in rules.ratings.items():
        pair[f"score_chosen.{name}"], pair[f"score_rejected.{name}"] = (_rating(raw, column) for column in columns)
    return pair | _optional(raw, rules) | {"repeated_prompt": repeated}


def check_rated_pair(raw: dict[str, Any], rules: RowRules) -> dict[str, Any] | None:
    """A row with two rated responses as a corpus row; None if the ratings are equal on every aspect.

    Raises:
        BadRowError: a rule is broken.
    """
    prompt, (first, second), repeated = row_texts(raw, ("response_a", "response_b"), rules)
    if first == second:
        raise BadRowError("equal responses")
    ratings = {aspect: (_rating(raw, a), _rating(raw, b)) for aspect, (a, b) in rules.ratings.items()}
    if all(None in pair for pair in ratings.values()):
        raise BadRowError("no rating")
    pair_id = _pair_id(raw, rules) or digest(canonical(prompt), canonical(first), canonical(second))
    pair = draw_pair(pair_id, prompt, (first, second), ratings, rules.seed)
    return pair and pair | _optional(raw, rules) | {"repeated_prompt": repeated}


def check_response(raw: dict[str, Any], rules: RowRules) -> dict[str, Any]:
    """A row with one rated response, checked: prompt, response and ``rating.<aspect>``.

    Raises:
        BadRowError: a rule is broken.
    """
    prompt, (response,), repeated = row_texts(raw, ("response",), rules)
    row: dict[str, Any] = {"prompt": prompt, "response": response, "repeated_prompt": repeated}
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
        extra = {name: one.get(name) for name in rules.carried}
        if rules.licensed:  # the pair stands under both
            extra["license"] = " and ".join(sorted({one["license"], other["license"]} - {None})) or None
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


def row_texts(raw: dict[str, Any], names: tuple[str, ...], rules: RowRules) -> tuple[Text, list[Any], bool]:
    """The prompt, the responses without it, and whether they repeated it.

    Args:
        raw: a row.
        names: of the responses, our column names.
        rules: see :class:`RowRules`.

    Raises:
        BadRowError: a rule is broken.
    """
    if rules.implicit_prompt:
        return *_implicit([_text(raw, name, rules, RESPONSE_ROLE) for name in names]), False
    prompt = _text(raw, "prompt", rules, "user")
    responses: list[Any] = [_text(raw, name, rules, RESPONSE_ROLE) for name in names]
    if isinstance(prompt, str):
        return prompt, responses, False
    splits = [split_repeated(prompt, response) for response in responses]
    wholes = [split[0] if split else prompt for split in splits]
    if any(whole != wholes[0] for whole in wholes):
        raise BadRowError(f"{' and '.join(names)} repeat different turns before the prompt")
    rests: list[Any] = [split[1] if split else response for split, response in zip(splits, responses, strict=True)]
    for name, rest in zip(names, rests, strict=True):
        if rest[0]["role"] in PROMPT_ROLES:
            raise BadRowError(f"begins with a turn of the {rest[0]['role']}: {name}")
    return wholes[0], rests, any(splits)


def _implicit(responses: list[Any]) -> tuple[Text, list[Any]]:
    shared = (shared_text if isinstance(responses[0], str) else shared_turns)(*responses)
    prompt = responses[0][:shared]
    rests = [response[shared:] for response in responses]
    if not all(_has_words(text) for text in (prompt, *rests)):
        raise BadRowError(NO_PROMPT)
    return prompt, rests


def _has_words(text: Text) -> bool:
    return any(part.strip() for part in ([text] if isinstance(text, str) else (turn["content"] for turn in text)))


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
    if not _has_words(messages[-1:] if role == RESPONSE_ROLE else messages):
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
    values = {name: _decoded(raw, name, rules) for name in rules.carried}
    return {name: None if value is None else _utf8(str(value), name) for name, value in values.items()}
