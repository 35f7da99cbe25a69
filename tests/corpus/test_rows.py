"""One row in: a checked pair or the reason why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdray.corpus.rows import (
    BadRowError,
    NotDecodable,
    RowRules,
    check_pair,
    check_rated_pair,
    check_response,
    draw_pair,
    pairs_of_responses,
)

COLUMNS = {
    name: name
    for name in (
        "pair_id",
        "prompt",
        "chosen",
        "rejected",
        "aspect",
        "overall",
        "source",
        "license",
        "response",
        "response_a",
        "response_b",
    )
}
RULES = RowRules(COLUMNS)
GOOD = {"pair_id": "1", "prompt": "p", "chosen": "c", "rejected": "r", "aspect": "a"}
MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_good_row_passes():
    assert check_pair(GOOD, RULES) == GOOD | {"overall": None, "source": None, "repeated_prompt": False}


def test_a_licence_is_carried_where_there_is_a_column_of_it():
    licensed = replace(RULES, licensed=True)
    assert check_pair(GOOD | {"license": "mit"}, licensed)["license"] == "mit"
    assert check_pair(GOOD, licensed)["license"] is None
    assert "license" not in check_pair(GOOD | {"license": "mit"}, RULES)
    with pytest.raises(BadRowError, match="not UTF-8: license"):
        check_pair(GOOD | {"license": b"\xff"}, licensed)


@pytest.mark.parametrize(
    ("both", "told"),
    [(("mit", "mit"), "mit"), (("mit", "cc0-1.0"), "cc0-1.0 and mit"), ((None, "mit"), "mit"), ((None, None), None)],
)
def test_a_pair_of_responses_stands_under_the_licences_of_both(both, told):
    rules = RowRules(COLUMNS, ratings={"a": ("a",)}, licensed=True)
    responses = [
        check_response({"prompt": "p", "response": text, "a": rating, "license": license}, rules)
        for text, rating, license in zip("xy", (1, 2), both, strict=True)
    ]
    (pair,) = pairs_of_responses(responses, rules)
    assert pair["license"] == told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, "missing field: prompt"),
        ({"chosen": ""}, "empty field: chosen"),
        ({"chosen": " \n"}, "empty field: chosen"),
        ({"rejected": 7}, "not text: rejected"),
        ({"rejected": "c"}, "equal responses"),
        ({"aspect": 3}, "not text: aspect"),
        ({"pair_id": None}, "missing field: pair_id"),
        ({"pair_id": 1.5}, "not text: pair_id"),
        ({"chosen": b"\xff"}, "not UTF-8: chosen"),
        ({"chosen": NotDecodable()}, "not UTF-8: chosen"),
        ({"chosen": "\ud800"}, "not UTF-8: chosen"),
        ({"pair_id": "\ud800"}, "not UTF-8: pair_id"),
        ({"aspect": "\ud800"}, "not UTF-8: aspect"),
        ({"source": "\ud800"}, "not UTF-8: source"),
        ({"overall": b"\xff"}, "not UTF-8: overall"),
        ({"chosen": MESSAGES}, "messages in a corpus of strings: chosen"),
    ],
)
def test_a_bad_row_has_a_reason(change, reason):
    with pytest.raises(BadRowError, match=f"^{reason}$"):
        check_pair(GOOD | change, RULES)


def test_an_aspect_outside_the_list_is_refused():
    with pytest.raises(BadRowError, match=r"^unknown aspect$"):
        check_pair(GOOD, RowRules(COLUMNS, aspects=("b", "c")))


def test_columns_are_mapped():
    raw = {"id": 5, "p": "p", "c": "c", "r": "r", "k": "a"}
    columns = COLUMNS | {"pair_id": "id", "prompt": "p", "chosen": "c", "rejected": "r", "aspect": "k"}
    assert check_pair(raw, RowRules(columns))["pair_id"] == "5"


def test_an_absent_id_is_made_from_the_content():
    row = {key: value for key, value in GOOD.items() if key != "pair_id"}
    first = check_pair(row, RULES)["pair_id"]
    assert first == check_pair(dict(reversed(row.items())), RULES)["pair_id"]
    assert first != check_pair(row | {"chosen": "other"}, RULES)["pair_id"]


def test_strings_become_messages_in_a_conversation():
    row = check_pair(GOOD | {"prompt": MESSAGES}, RowRules(COLUMNS, conversational=True))
    assert row["prompt"] == MESSAGES
    assert row["chosen"] == [{"role": "assistant", "content": "c"}]


def test_messages_without_content_are_empty():
    rules = RowRules(COLUMNS, conversational=True)
    blank = {"role": "assistant", "content": " "}
    with pytest.raises(BadRowError, match="empty field: chosen"):
        check_pair(GOOD | {"chosen": [*MESSAGES, blank]}, rules)
    assert check_pair(GOOD | {"prompt": [blank, *MESSAGES]}, rules)
    with pytest.raises(BadRowError, match="empty field: chosen"):
        check_pair(GOOD | {"chosen": [{"role": "assistant", "content": " "}]}, RowRules(COLUMNS, conversational=True))


@pytest.mark.parametrize("bad", [["text"], [{"role": "user"}], [{"role": "user", "content": 1}]])
def test_a_message_needs_role_and_content(bad):
    with pytest.raises(BadRowError, match="not a message"):
        check_pair(GOOD | {"prompt": bad}, RowRules(COLUMNS, conversational=True))


RATED = RowRules(COLUMNS, ratings={"x": ("ax", "bx"), "y": ("ay", "by")})
RATED_ROW = {"pair_id": "1", "prompt": "p", "response_a": "A", "response_b": "B", "ax": 1, "bx": 3, "ay": 2, "by": 2}


def test_the_better_response_by_the_drawn_aspect_is_chosen():
    pair = check_rated_pair(RATED_ROW, RATED)
    assert (pair["aspect"], pair["chosen"], pair["rejected"]) == ("x", "B", "A")
    assert (pair["score_chosen.x"], pair["score_rejected.x"]) == (3.0, 1.0)


def test_equal_ratings_give_no_pair():
    assert check_rated_pair(RATED_ROW | {"bx": 1}, RATED) is None


def test_a_missing_rating_is_no_reason_to_draw_the_aspect():
    assert check_rated_pair(RATED_ROW | {"ax": None, "ay": 1}, RATED)["aspect"] == "y"
    with pytest.raises(BadRowError, match="no rating"):
        check_rated_pair(RATED_ROW | {"ax": None, "ay": None}, RATED)


@pytest.mark.parametrize("value", ["high", float("inf"), [], 10**400])
def test_a_rating_must_be_a_number(value):
    with pytest.raises(BadRowError, match="rating not a number: ax"):
        check_rated_pair(RATED_ROW | {"ax": value}, RATED)


def test_the_draw_depends_on_seed_and_id_and_reaches_every_aspect():
    ratings = {"x": (1, 2), "y": (2, 1), "z": (1, 1)}

    def draws(seed):
        return [draw_pair(str(i), "p", ("A", "B"), ratings, seed)["aspect"] for i in range(200)]

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)
    assert 60 < draws(0).count("x") < 140
    assert "z" not in draws(0)


def test_responses_to_a_prompt_are_paired_whatever_their_order():
    rules = RowRules(COLUMNS, ratings={"x": ("x",), "y": ("y",)})
    raw = [{"prompt": "p", "response": text, "x": i, "y": -i} for i, text in enumerate("ABCA")]
    rows = [check_response(row, rules) for row in raw[:3]]
    pairs = pairs_of_responses(rows, rules)
    assert len(pairs) == 3
    assert pairs == pairs_of_responses(rows[::-1], rules)
    again = pairs_of_responses([*rows, rows[0]], rules)
    assert [pair for pair in again if "reason" not in pair] == pairs
    assert [pair for pair in again if "reason" in pair] == [{"reason": "same response twice"}]
    assert pairs_of_responses(rows[:1], rules) == [{"reason": "only response to its prompt"}]


def turn(role, content):
    return {"role": role, "content": content}


SYSTEM, QUESTION, MORE = turn("system", "be kind"), turn("user", "q"), turn("user", "and?")
YES, NO, WELL = turn("assistant", "yes"), turn("assistant", "no"), turn("assistant", "well")
TALK = RowRules(COLUMNS, conversational=True)
IMPLICIT = RowRules(COLUMNS, conversational=True, implicit_prompt=True)


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        # UltraFeedback-binarized: the prompt is a string, the responses begin with it as a turn.
        ("q", [QUESTION, YES], [QUESTION, NO], ([QUESTION], [YES], [NO], True)),
        ([QUESTION], [QUESTION, YES], [QUESTION, NO], ([QUESTION], [YES], [NO], True)),
        ([QUESTION, WELL, MORE], [QUESTION, WELL, MORE, YES], [QUESTION, WELL, MORE, NO], (3, [YES], [NO], True)),
        # Turns before the prompt's belong to it too.
        ("q", [SYSTEM, QUESTION, YES], [SYSTEM, QUESTION, NO], ([SYSTEM, QUESTION], [YES], [NO], True)),
        ("and?", [QUESTION, WELL, MORE, YES], [QUESTION, WELL, MORE, NO], ([QUESTION, WELL, MORE], [YES], [NO], True)),
        ("q", [QUESTION, YES], "no", ([QUESTION], [YES], [NO], True)),
        ("q", [turn("user", "q\n"), YES], [QUESTION, NO], ([QUESTION], [YES], [NO], True)),
        # Responses of several turns that are just that.
        ("q", [WELL, MORE, YES], [WELL, MORE, NO], ([QUESTION], [WELL, MORE, YES], [WELL, MORE, NO], False)),
        ("q", [WELL, QUESTION, YES], [NO], ([QUESTION], [WELL, QUESTION, YES], [NO], False)),
        ([QUESTION, WELL], [YES], [NO], ([QUESTION, WELL], [YES], [NO], False)),
    ],
)
def test_turns_that_the_responses_repeat_are_taken_off(prompt, chosen, rejected, expected):
    expected = (prompt, *expected[1:]) if expected[0] == 3 else expected
    row = check_pair(GOOD | {"prompt": prompt, "chosen": chosen, "rejected": rejected}, TALK)
    assert (row["prompt"], row["chosen"], row["rejected"], row["repeated_prompt"]) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ([MORE, YES], [MORE, NO], "begins with a turn of the user: chosen"),
        ([QUESTION, YES], [SYSTEM, NO], "begins with a turn of the system: rejected"),
        ([SYSTEM, QUESTION, YES], [QUESTION, NO], "chosen and rejected repeat different turns before the prompt"),
        ([QUESTION, YES], [QUESTION, YES], "equal responses"),
    ],
)
def test_a_response_does_not_begin_with_another_question(chosen, rejected, reason):
    with pytest.raises(BadRowError, match=f"^{reason}$"):
        check_pair(GOOD | {"prompt": "q", "chosen": chosen, "rejected": rejected}, TALK)


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ([QUESTION, YES], [QUESTION, NO], ([QUESTION], [YES], [NO])),
        ([SYSTEM, QUESTION, WELL, MORE, YES], [SYSTEM, QUESTION, WELL, MORE, NO], (4, [YES], [NO])),
        ([QUESTION, YES], [QUESTION, YES, MORE, NO], ([QUESTION], [YES], [YES, MORE, NO])),
        # The user goes on differently: these are two conversations about one question.
        (
            [QUESTION, WELL, MORE, YES],
            [QUESTION, WELL, QUESTION, NO],
            ([QUESTION], [WELL, MORE, YES], [WELL, QUESTION, NO]),
        ),
    ],
)
def test_an_implicit_prompt_is_the_longest_common_beginning(chosen, rejected, expected):
    expected = (chosen[:4], *expected[1:]) if expected[0] == 4 else expected
    row = check_pair({"chosen": chosen, "rejected": rejected, "aspect": "a"}, IMPLICIT)
    assert (row["prompt"], row["chosen"], row["rejected"]) == expected
    assert row["repeated_prompt"] is False


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("Human: q\n\nAssistant: It is", "Human: q\n\nAssistant: I am", ("Human: q\n\nAssistant:", " It is", " I am")),
        ("The sky is blue", "The sky is brown", ("The sky is", " blue", " brown")),
        ("Q?\nYes", "Q?\nNo", ("Q?\n", "Yes", "No")),
        ("one two", "one two three", ("one", " two", " two three")),
    ],
)
def test_an_implicit_prompt_of_strings_ends_between_words(chosen, rejected, expected):
    row = check_pair({"chosen": chosen, "rejected": rejected, "aspect": "a"}, RowRules(COLUMNS, implicit_prompt=True))
    assert (row["prompt"], row["chosen"], row["rejected"]) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ([QUESTION, YES], [MORE, NO]),
        ([SYSTEM, QUESTION, YES], [SYSTEM, MORE, NO]),
        ([YES], [NO]),
        ([QUESTION, YES], "no"),
        ("blue", "brown"),
        (" blue", " brown"),
    ],
)
def test_without_a_common_beginning_there_is_no_prompt(chosen, rejected):
    rules = RowRules(COLUMNS, conversational=isinstance(chosen, list), implicit_prompt=True)
    with pytest.raises(BadRowError, match=r"^no prompt: the responses share no beginning$"):
        check_pair({"chosen": chosen, "rejected": rejected, "aspect": "a"}, rules)


def test_rated_rows_may_repeat_or_imply_their_prompt():
    row = RATED_ROW | {"prompt": "q", "response_a": [QUESTION, NO], "response_b": [QUESTION, YES]}
    for rules in (TALK, IMPLICIT):
        pair = check_rated_pair(row, replace(rules, ratings=RATED.ratings))
        assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ([QUESTION], [YES], [NO])
        assert pair["repeated_prompt"] is (rules is TALK)
    response = check_response(
        {"prompt": "q", "response": [QUESTION, YES], "x": 1}, replace(TALK, ratings={"x": ("x",)})
    )
    assert (response["prompt"], response["response"], response["repeated_prompt"]) == ([QUESTION], [YES], True)
