"""The published layouts: rows of a file in, rated responses to a prompt out.

Layouts as of the data sets' cards: openbmb/UltraFeedback, argilla/ultrafeedback-binarized-preferences-cleaned,
nvidia/HelpSteer, HelpSteer2 and HelpSteer3, PKU-Alignment/PKU-SafeRLHF, stanfordnlp/SHP.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from pdray.builders.units import NO_TEXT, Rows, Unit, choice_of, rating_of, text_of, turns_of, unusable
from pdray.errors import UserError

ULTRAFEEDBACK = ("helpfulness", "honesty", "instruction_following", "truthfulness")
HELPSTEER = ("coherence", "complexity", "correctness", "helpfulness", "verbosity")
# HelpSteer2 writes the turns of a conversation as one text: what is first is the user's.
TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def ultrafeedback(rows: Rows) -> Iterator[Unit]:
    """openbmb: a row a prompt, with its completions and a rating of each aspect, "1" to "5" or "N/A".

    ``overall_score`` is never read: it is wrong in hundreds of rows.
    """
    for row, where in rows:
        prompt = text_of(row, "instruction", where)
        completions = row.get("completions") or []
        if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
            raise UserError(f"{where}: completions is no list of objects, as openbmb/UltraFeedback has; mend the row")
        responses = [text_of(one, "response", where) for one in completions]
        ratings = [_annotated(one, where) for one in completions]
        yield _unit(prompt, responses, ratings, text_of(row, "source", where))


def _annotated(completion: dict[str, Any], where: str) -> dict[str, float | None]:
    annotations = completion.get("annotations")
    if not isinstance(annotations, dict):
        raise UserError(f"{where}: a completion has no annotations, as openbmb/UltraFeedback has them; mend the row")
    found = {}
    for aspect in ULTRAFEEDBACK:
        annotation = annotations.get(aspect) or {}
        if not isinstance(annotation, dict):
            raise UserError(f"{where}: annotations.{aspect} is no object with a Rating; mend the row")
        found[aspect] = rating_of(annotation.get("Rating"), f"annotations.{aspect}.Rating", where)
    return found


def ultrafeedback_cleaned(rows: Rows) -> Iterator[Unit]:
    """argilla: a row a pair of conversations, with the mean rating of each: one aspect, ``overall``."""
    for row, where in rows:
        answers = [turns_of(row.get(side), side, where) for side in ("chosen", "rejected")]
        ratings = [{"overall": rating_of(row.get(f"{side}-rating"), f"{side}-rating", where)} for side in SIDES]
        responses = [turns[-1]["content"] if turns else "" for turns in answers]
        yield _unit(text_of(row, "prompt", where), responses, ratings, text_of(row, "source", where))


SIDES = ("chosen", "rejected")


def helpsteer(rows: Rows) -> Iterator[Unit]:
    """HelpSteer: a row a response, those to one prompt in neighbouring rows, five aspects from 0 to 4."""
    return responses_in_rows(rows, "prompt", "response", {aspect: aspect for aspect in HELPSTEER})


def helpsteer2(rows: Rows) -> Iterator[Unit]:
    """HelpSteer2: as HelpSteer, with conversations as prompts, which become messages."""
    for unit in helpsteer(rows):
        yield unit if unit.reason else Unit(_turns(str(unit.prompt)), unit.responses, unit.ratings, rows=unit.rows)


def _turns(prompt: str) -> list[dict[str, str]]:
    first, *others = TURN.split(prompt)
    turns = [("user", first), *zip(map(str.lower, others[::2]), others[1::2], strict=True)]
    return [{"role": role, "content": text} for role, text in turns]


def helpsteer3(rows: Rows) -> Iterator[Unit]:
    """HelpSteer3's preferences: a row a pair, from -3 (response 1 is much better) to 3: one aspect, ``overall``."""
    for row, where in rows:
        preference = rating_of(row.get("overall_preference"), "overall_preference", where)
        strength = None if preference is None else abs(preference)
        ratings: list[dict[str, float | None]] = [{"overall": strength}, {"overall": strength and 0.0}]
        responses = [text_of(row, name, where) for name in ("response1", "response2")]
        better_last = preference is not None and preference > 0
        turns = turns_of(row.get("context"), "context", where)
        yield _unit(turns, responses, ratings[::-1] if better_last else ratings, text_of(row, "domain", where))


def pku_saferlhf(rows: Rows) -> Iterator[Unit]:
    """PKU-SafeRLHF: a row a pair; which response is more helpful and which is safer are two aspects, rated 1 and 0."""
    for row, where in rows:
        helpful, safe = (choice_of(row, f"{name}_response_id", where) for name in ("better", "safer"))
        ratings = [{"helpfulness": float(helpful == i), "safety": float(safe == i)} for i in (0, 1)]
        responses = [text_of(row, f"response_{i}", where) for i in (0, 1)]
        yield _unit(text_of(row, "prompt", where), responses, ratings, text_of(row, "prompt_source", where))


LABEL_AGAINST_SCORES = "label against the scores"


def shp(rows: Rows) -> Iterator[Unit]:
    """SHP: a row a pair of comments with their scores, ``labels`` 1 where A is preferred: one aspect, helpfulness."""
    for row, where in rows:
        preferred = 1 - choice_of(row, "labels", where)
        scores = [rating_of(row.get(f"score_{side}"), f"score_{side}", where) for side in "AB"]
        if None not in scores and scores[preferred] < scores[1 - preferred]:  # type: ignore[operator]
            yield unusable(LABEL_AGAINST_SCORES)
            continue
        responses = [text_of(row, f"human_ref_{side}", where) for side in "AB"]
        ratings = [{"helpfulness": score} for score in scores]
        yield _unit(text_of(row, "history", where), responses, ratings, text_of(row, "domain", where))


def responses_in_rows(
    rows: Rows, prompt: str, response: str, ratings: dict[str, str], source: str | None = None
) -> Iterator[Unit]:
    """A row a response, those to one prompt in neighbouring rows.

    Args:
        rows: of the input.
        prompt, response, source: names of columns.
        ratings: aspect -> column.
    """
    for text, group in itertools.groupby(rows, key=lambda one: text_of(one[0], prompt, one[1])):
        alike = list(group)
        responses = [text_of(row, response, where) for row, where in alike]
        rated = [
            {aspect: rating_of(row.get(column), column, where) for aspect, column in ratings.items()}
            for row, where in alike
        ]
        yield _unit(text, responses, rated, source and text_of(alike[0][0], source, alike[0][1]), len(alike))


def pairs_in_rows(
    rows: Rows, prompt: str, responses: tuple[str, str], ratings: dict[str, tuple[str, str]], source: str | None = None
) -> Iterator[Unit]:
    """A row two responses with their ratings.

    Args:
        rows: of the input.
        prompt, responses, source: names of columns.
        ratings: aspect -> columns of both responses.
    """
    for row, where in rows:
        rated = [
            {aspect: rating_of(row.get(columns[i]), columns[i], where) for aspect, columns in ratings.items()}
            for i in (0, 1)
        ]
        texts = [text_of(row, name, where) for name in responses]
        yield _unit(text_of(row, prompt, where), texts, rated, source and text_of(row, source, where))


def _unit(prompt: Any, responses: list[str], ratings: Any, source: str | None, rows: int = 1) -> Unit:
    has_text = prompt if isinstance(prompt, str) else any(turn["content"] for turn in prompt)
    return Unit(prompt, responses, ratings, source or None, rows) if has_text else unusable(NO_TEXT, rows)
