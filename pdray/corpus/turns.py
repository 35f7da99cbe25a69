"""Where a prompt ends and its responses begin, in layouts that repeat the prompt or leave it out.

Pure functions on messages, ``{role, content}`` turns, and strings.
"""

from __future__ import annotations

import re
from itertools import takewhile

Messages = list[dict[str, str]]

RESPONSE_ROLE = "assistant"
# No response begins with a turn of these.
PROMPT_ROLES = ("system", "user")


def split_repeated(prompt: Messages, response: Messages) -> tuple[Messages, Messages] | None:
    """Split a response that repeats the turns of its prompt.

    Turns before the prompt's, such as a system turn, become part of the prompt, unless the response begins with a
    turn of the assistant: then it is an answer of several turns, in which the same question may well come again.

    Returns:
        the whole prompt and what follows it, at least one turn; None if the response does not repeat the prompt.
    """
    starts = len(response) - len(prompt)  # places that leave a turn to respond with
    if response[0]["role"] == RESPONSE_ROLE:
        starts = min(starts, 1)
    for start in range(starts):
        end = start + len(prompt)
        if all(map(_same, prompt, response[start:end])):
            return response[:start] + prompt, response[end:]
    return None


def _same(turn: dict[str, str], other: dict[str, str]) -> bool:
    return turn["role"] == other["role"] and turn["content"].strip() == other["content"].strip()


def shared_turns(first: Messages, second: Messages) -> int:
    """How many turns two conversations share before their responses begin (TRL's implicit prompt).

    Each keeps at least one turn, and none begins with the user's: where the user goes on differently, the turns of
    the assistant before that are part of the responses.
    """
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared] == second[shared]:
        shared += 1
    while shared and {first[shared]["role"], second[shared]["role"]} & set(PROMPT_ROLES):
        shared -= 1
    return shared


def shared_text(first: str, second: str) -> int:
    """How many characters two strings share before their responses begin (TRL's implicit prompt).

    No word is cut, and the space after the prompt belongs to the responses.
    """
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    return len(re.sub(r"\S+\Z", "", first[:alike]).removesuffix(" "))
