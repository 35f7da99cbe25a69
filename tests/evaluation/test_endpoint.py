"""A judge behind an API: questions in both orders, strict verdicts, faults, resume, and a key that shows nowhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdray.config import EndpointConfig
from pdray.errors import UserError
from pdray.evaluation.endpoint import question, read_key, verdict_of
from pdray.evaluation.endpoint_judge import Verdicts, ask_all
from pdray.evaluation.stage import STAGE
from tests.evaluation.stand_in import Answering, Fault, completion, longer_wins, stand_in
from tests.stages import context

KEY = "sk-very-secret"
LONG, SHORT = "a long and thorough answer", "no"
COMPARISONS: list[tuple[Any, str, str]] = [(f"request {row}", LONG, SHORT) for row in range(20)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pauses between tries, half a second and more, are none."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)


def ask(
    root: Path, url: str, comparisons: list[tuple[Any, str, str]] = COMPARISONS, most: float = 0.0, **settings: Any
) -> Verdicts:
    judge = EndpointConfig.model_validate({"url": url, "model": "judge", "tries": 3} | settings)
    return ask_all(context(STAGE, root), "gpt", judge, comparisons, most)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "A"),
        ("B.", "B"),
        ("[[A]]", "A"),
        ("**tie**", "tie"),
        ("Tie", "tie"),
        ("B says more.\n\nB\n", "B"),
        ("", None),
        ("C", None),
        ("a", None),
        ("A or B", None),
        ("A is better", None),
        ("AB", None),
        ("The better one is\nA, because it is kind", None),
    ],
)
def test_a_verdict_is_a_word_on_the_last_line(reply: str, verdict: str | None) -> None:
    assert verdict_of(reply) == verdict


def test_a_question_holds_every_turn_and_both_answers_in_their_order() -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{first}?"}]
    text = question(turns, "one", "other")
    assert text.index("system: Be kind.") < text.index("user: {first}?") < text.index("one") < text.index("other")
    assert longer_wins(question("p", "longer", "l")) == "A"


def test_both_orders_are_asked_and_the_verdicts_kept(tmp_path: Path) -> None:
    with stand_in(longer_wins) as server:
        found = ask(tmp_path, server.url, extra_body={"top_k": 1})
        assert found.pairs == [("A", "B")] * 20
        assert (found.asked, len(set(server.questions))) == (40, 40)
        assert server.requests[0]["model"] == "judge"
        assert (server.requests[0]["temperature"], server.requests[0]["top_k"]) == (0, 1)
        assert server.requests[0]["max_completion_tokens"] == 16
        assert ask(tmp_path, server.url, extra_body={"top_k": 1}) == Verdicts(found.pairs)
        assert len(server.questions) == 40
        other = ask(tmp_path, server.url, extra_body={"top_k": 1}, model="another")
        assert (other.asked, other.pairs) == (40, found.pairs)


def test_whatever_decides_a_verdict_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = COMPARISONS[:1], [("request 0", SHORT, LONG)]
    with stand_in(longer_wins) as server:
        assert ask(tmp_path, server.url, one).asked == 2
        assert ask(tmp_path, server.url, one, timeout=9.0, concurrency=1, tries=1).asked == 0
        for changed in ({"model": "another"}, {"extra_body": {"top_k": 1}}, {"verdict_tokens": 17}):
            assert ask(tmp_path, server.url, one, **changed).asked == 2, changed
        assert ask(tmp_path, server.url, other).pairs == [("B", "A")]
        monkeypatch.setattr("pdray.evaluation.endpoint_judge.QUESTION", "Which one?")
        assert ask(tmp_path, server.url, one).asked == 2


def test_the_user_sees_how_many_questions_are_answered(tmp_path: Path) -> None:
    ctx = context(STAGE, tmp_path)
    with stand_in(longer_wins) as server:
        ask_all(ctx, "gpt", EndpointConfig(url=server.url, model="m"), COMPARISONS, 0.0)
    assert "verdicts of gpt: 40/40 questions" in ctx.progress.console.err.getvalue()  # type: ignore[attr-defined]


def test_a_notebook_whose_event_loop_runs_may_ask(tmp_path: Path) -> None:
    async def cell(url: str) -> Verdicts:
        return ask(tmp_path, url, COMPARISONS[:1])

    with stand_in(longer_wins) as server:
        assert asyncio.run(cell(server.url)).pairs == [("A", "B")]


def test_equal_answers_tie_without_a_question(tmp_path: Path) -> None:
    with stand_in(longer_wins) as server:
        assert ask(tmp_path, server.url, [("p", "same", "same")]).pairs == [("tie", "tie")]
        assert server.questions == []


def first_only(fault: Fault | str) -> Answering:
    return lambda question, before: longer_wins(question) if before else fault


def never_for(row: int, fault: Fault | str) -> Answering:
    return lambda question, before: fault if f"request {row}\n" in question else longer_wins(question)


FAULTS = {
    "status 500": Fault(500, "{}"),
    "no connection (RemoteProtocolError)": Fault(0),
    "status 429": Fault(429, '{"error": {"message": "slow down"}}'),
    "no answer in time": Fault(seconds=2.0, body=completion("A")),
    "no verdict but 'I like both.'": "I like both.",
    "a body that is no chat completion": Fault(200, "{not json"),
    "a reply cut after verdict_tokens 16": Fault(200, completion("A", "length")),
}


def seconds_for(reason: str) -> float:
    return 1.0 if reason == "no answer in time" else 30.0


@pytest.mark.parametrize("reason", FAULTS)
def test_what_fails_once_is_asked_again(tmp_path: Path, reason: str) -> None:
    with stand_in(first_only(FAULTS[reason])) as server:
        found = ask(tmp_path, server.url, COMPARISONS[:1], timeout=seconds_for(reason))
    assert found.pairs == [("A", "B")]
    assert not found.reasons


@pytest.mark.parametrize("reason", FAULTS)
def test_what_fails_for_good_is_no_loss_and_is_asked_by_the_next_run(tmp_path: Path, reason: str) -> None:
    with stand_in(never_for(3, FAULTS[reason])) as server:
        found = ask(tmp_path, server.url, COMPARISONS[:5], 0.5, timeout=seconds_for(reason), tries=2)
        assert server.questions.count(question("request 3", LONG, SHORT)) == 2
    assert found.pairs == [("A", "B")] * 3 + [(None, None)] + [("A", "B")]
    ((told, count),) = found.reasons.items()
    assert told.startswith(reason) and count == 2
    with stand_in(longer_wins) as server:
        again = ask(tmp_path, server.url, COMPARISONS[:5])
    assert (again.pairs, again.asked) == ([("A", "B")] * 5, 2)


def test_odd_bodies_are_no_verdicts(tmp_path: Path) -> None:
    bodies = ["null", "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', '"A"']
    bodies += ["[" * 10_000, '{"choices": [{"message": {"content": ["A"]}}]}']
    for number, body in enumerate(bodies):
        with stand_in(lambda question, before, body=body: Fault(200, body)) as server:
            found = ask(tmp_path / str(number), server.url, COMPARISONS[:1], 1.0, tries=1)
        assert found.pairs == [(None, None)], body
        assert "a body that is no chat completion (" in next(iter(found.reasons)), body


def test_a_refusal_of_one_question_is_not_repeated(tmp_path: Path) -> None:
    with stand_in(never_for(0, Fault(400, '{"error": {"message": "too long"}}'))) as server:
        found = ask(tmp_path, server.url, COMPARISONS[:2], 0.5)
        assert len(server.questions) == 4
    assert found.pairs == [(None, None), ("A", "B")]


def test_as_many_may_fail_as_the_share_allows(tmp_path: Path) -> None:
    """Of fifty questions 58% are 29, and a computer's 0.58 * 50 is a little less."""

    def refused(question: str, before: int) -> Fault | str:
        answered = "hard" not in question or ("hardest" in question and longer_wins(question) == "B")
        return longer_wins(question) if answered else Fault(400)

    hard = [(f"hard {row}", LONG, SHORT) for row in range(14)]
    comparisons: list[tuple[Any, str, str]] = [*hard, ("hardest", LONG, SHORT), *[("p", "same", "same")] * 10]
    with stand_in(refused) as server:
        assert ask(tmp_path, server.url, comparisons, 0.58).reasons.total() == 29
        with pytest.raises(UserError, match="has left 29 questions without a verdict"):
            ask(tmp_path, server.url, comparisons, 0.57)


def test_too_many_failures_end_the_run_and_what_is_judged_stays(tmp_path: Path) -> None:
    def broken(question: str, before: int) -> Fault | str:
        return Fault(500) if any(f"request {row}\n" in question for row in range(16, 20)) else longer_wins(question)

    with stand_in(broken) as server, pytest.raises(UserError, match=r"more than evaluation\.max_failed .*status 500"):
        ask(tmp_path, server.url, most=0.1, tries=1, concurrency=1)
    with stand_in(longer_wins) as server:
        found = ask(tmp_path, server.url)
    assert found.pairs == [("A", "B")] * 20
    assert found.asked == 8


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_run_at_once_and_is_not_told(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with stand_in(lambda question, before: Fault(status, body)) as server:
        with pytest.raises(
            UserError, match=rf"answers {status}, so it refuses the key in key_variable JUDGE_KEY"
        ) as no:
            ask(tmp_path, server.url, key_variable="JUDGE_KEY", concurrency=1)
        assert len(server.questions) < 5
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(no.value) + "".join(capfd.readouterr())


def test_a_key_that_a_reply_quotes_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    said: list[Fault | str] = [f"Your key is {KEY}", Fault(400, json.dumps({"error": {"message": f"Not with {KEY}"}}))]
    # A part of it would be left where a long text is cut before the key is taken out of it.
    said += [f"{KEY} {'z' * 72}", Fault(400, json.dumps({"error": {"message": f"{'n' * 33} {KEY}"}}))]
    for number, one in enumerate(said):
        with stand_in(lambda question, before, one=one: one) as server:
            root = tmp_path / str(number)
            (told,) = ask(root, server.url, COMPARISONS[:1], 1.0, key_variable="JUDGE_KEY", tries=1).reasons
        assert not any(part in told for part in ("sk-", "very", "secret")) and len(told) < 130


def test_a_wrong_model_is_a_sentence(tmp_path: Path) -> None:
    missing = Fault(404, '{"error": {"message": "no such model"}}')
    refused = pytest.raises(UserError, match=r"answers 404, so it has no model 'judge'.*correct model, or url")
    with stand_in(lambda question, before: missing) as server, refused:
        ask(tmp_path, server.url)


def test_a_server_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no connection \(ConnectError\)"):
        ask(tmp_path, "http://127.0.0.1:9/v1", tries=1)


def test_never_more_are_under_way_than_allowed(tmp_path: Path) -> None:
    state = SimpleNamespace(now=0, most=0)

    def slow(question: str, before: int) -> str:
        import time

        state.now += 1
        state.most = max(state.most, state.now)
        time.sleep(0.02)
        state.now -= 1
        return longer_wins(question)

    with stand_in(slow) as server:
        ask(tmp_path, server.url, concurrency=3)
    assert 1 < state.most <= 3


def test_a_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = EndpointConfig(url="https://judge.example/v1/", model="m", key_variable="JUDGE_KEY")
    assert judge.url == "https://judge.example/v1"
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match=r"key_variable is JUDGE_KEY, which is not set here; export it"):
        read_key("gpt", judge)
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    assert read_key("gpt", judge) == KEY
    with pytest.raises(ValueError, match="is no name of an environment variable") as refusal:
        EndpointConfig(url="https://judge.example/v1", model="m", key_variable=KEY)
    assert "put the key into one" in str(refusal.value)
