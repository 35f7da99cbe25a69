"""One question to a judge behind OpenAI's chat API: how it is put, how its verdict is read, and what counts as none."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from typing import Any

from pdray.config import EndpointConfig
from pdray.errors import UserError
from pdray.evaluation.winrate import Verdict

QUOTED = 80  # characters of what a server says
LONGEST_PAUSE = 120.0  # that a server may ask for between two tries
VERDICT = re.compile(r"\W*(A|B|tie)\W*", re.IGNORECASE)
QUESTION = """\
Below are a request and two answers to it, A and B. Judge which answer serves the person who made the request better: \
by whether it does what was asked, whether what it says is true, whether it is clear, and whether it does harm. \
Neither the length of an answer nor its place here counts. If you cannot tell the two apart, they tie.

<request>
{prompt}
</request>

<answer A>
{first}
</answer A>

<answer B>
{second}
</answer B>

Reply with one word on the last line: A, B or tie."""


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    Attributes:
        verdict: None where none came after all tries.
        reason: why not, in a few words; empty where there is a verdict.
    """

    verdict: Verdict | None
    reason: str = ""


def question(prompt: Any, first: str, second: str) -> str:
    """What a judge reads.

    Args:
        prompt: a string or a list of messages.
        first, second: answers A and B.
    """
    text = prompt if isinstance(prompt, str) else "\n\n".join(f"{one['role']}: {one['content']}" for one in prompt)
    return QUESTION.format(prompt=text, first=first, second=second)


def verdict_of(reply: str) -> Verdict | None:
    """The verdict on the last line of a reply, where nothing else stands on it; else None."""
    lines = [line for line in reply.splitlines() if line.strip()]
    found = VERDICT.fullmatch(lines[-1]) if lines else None
    if found is None:
        return None
    word = found[1]
    # A lower-case "a" is an article that a reply was cut after.
    return "tie" if word.lower() == "tie" else word if word in ("A", "B") else None  # type: ignore[return-value]


def read_key(name: str, judge: EndpointConfig) -> str | None:
    """The API key of a judge; None where it needs none.

    Raises:
        UserError: its environment variable is not set.
    """
    if judge.key_variable is None:
        return None
    key = os.environ.get(judge.key_variable, "").strip()
    if not key:
        raise UserError(
            f"evaluation.endpoints.{name}.key_variable is {judge.key_variable}, which is not set here; export it where "
            "pdray runs, or set key_variable to null for a server that asks for no key"
        )
    return key


class Endpoint:
    """A judge; to be used in one event loop.

    Args:
        name: of the judge.
        judge: its settings.

    Raises:
        UserError: see :func:`read_key`.
    """

    def __init__(self, name: str, judge: EndpointConfig) -> None:
        from openai import AsyncOpenAI

        self._name, self._judge, self._key = name, judge, read_key(name, judge)
        # Its retries are those of what may pass: no connection, no answer in time, too many requests, a server's error.
        self._client = AsyncOpenAI(
            base_url=judge.url, api_key=self._key or "none", timeout=judge.timeout, max_retries=judge.tries - 1
        )

    async def ask(self, prompt: Any, first: str, second: str) -> Reply:
        """Ask which of two answers is better, until a verdict comes or the tries are used up.

        Raises:
            UserError: what no further try would mend: the key is refused, or there is no such model.
        """
        reason = ""
        for _ in range(self._judge.tries):
            try:
                async with asyncio.timeout(self._judge.tries * (self._judge.timeout + LONGEST_PAUSE)):
                    text, reason, final = await self._once(question(prompt, first, second))
            except TimeoutError:
                return Reply(None, "no answer in time")
            if (verdict := verdict_of(text)) is not None:
                return Reply(verdict)
            reason = reason or f"no verdict but {self._shown(text)[-QUOTED:]!r}"
            if final:
                break
        return Reply(None, reason)

    async def _once(self, content: str) -> tuple[str, str, bool]:
        """The text of a reply, why there is none, and whether to ask again would be in vain."""
        import openai

        judge = self._judge
        try:
            found = await self._client.chat.completions.create(
                model=judge.model,
                messages=[{"role": "user", "content": content}],
                temperature=0,
                max_completion_tokens=judge.verdict_tokens,
                extra_body=judge.extra_body or None,
            )
            choice = found.choices[0]
            if choice.finish_reason == "length":
                return "", f"a reply cut after verdict_tokens {judge.verdict_tokens}", False
            text = choice.message.content or ""
            if not isinstance(text, str):
                raise TypeError("the client hands on what a server sends, of whatever type")
            return text, "", False
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            # What a server says of a key may quote it.
            raise UserError(
                f"evaluation.endpoints.{self._name}: {judge.url} answers {error.status_code}, so it refuses the key in "
                f"key_variable {judge.key_variable or 'null'}; export the right one, or name its variable"
            ) from None
        except openai.NotFoundError:
            raise UserError(
                f"evaluation.endpoints.{self._name}: {judge.url} answers 404, so it has no model {judge.model!r}, or "
                "no chat API there; correct model, or url, which mostly ends with /v1"
            ) from None
        except openai.APITimeoutError:
            return "", "no answer in time", True
        except openai.APIConnectionError as error:
            return "", f"no connection ({type(error.__cause__ or error).__name__})", True
        except openai.APIStatusError as error:
            return "", f"status {error.status_code}: {self._shown(error.message)[:QUOTED]!r}", True
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # Of a body that is no JSON, or JSON of another kind, which the client hands on as it is.
            return "", f"a body that is no chat completion ({type(error).__name__})", False

    def _shown(self, text: str) -> str:
        """On one line, and without the key, which a server may quote."""
        return " ".join((text.replace(self._key, "(key)") if self._key else text).split())

    async def close(self) -> None:
        """End its connections."""
        await self._client.close()
