"""What a head reads of a prompt and a response that were embedded apart. Pure functions on arrays and token ids.

The prompt of a pair is the same for both responses: on its own it can tell nothing about which is better. What counts
is the response, how it lies to the prompt, and what can be counted in it. Nothing here knows a language.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

COUNTED = (
    "log_tokens",
    "tokens_of_prompt",
    "prompt_covered",
    "distinct_tokens",
    "distinct_bigrams",
    "bigrams_of_prompt",
    "punctuation",
    "numbers",
    "symbols",
    "capitals",
    "spaces",
    "log_lines",
    "log_questions",
    "characters_per_token",
    "ends_with_punctuation",
)
QUESTION_MARKS = frozenset("?？؟")


def blocks(hidden_size: int) -> list[tuple[str, int]]:
    """Name and width of each block of :func:`combine`, in order."""
    return [("response", hidden_size), ("product", hidden_size), ("cosine", 1), *((name, 1) for name in COUNTED)]


def combine(prompts: np.ndarray, responses: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The features of n texts.

    Args:
        prompts: (n, H) embeddings of their prompts; of any length, they are normalised.
        responses: (n, H) embeddings of their responses, likewise.
        counted: (n, len(COUNTED)) of :func:`count`.

    Returns:
        (n, 2 H + 1 + len(COUNTED)) float32: the response, response × prompt element by element, their cosine, counts.
    """
    prompt, response = _normalised(prompts), _normalised(responses)
    product = prompt * response
    parts = [response, product, product.sum(1, keepdims=True), counted]
    return np.asarray(np.concatenate(parts, axis=1), np.float32)


def _normalised(embeddings: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(np.divide(embeddings, length, out=np.zeros(embeddings.shape), where=length != 0))


def count(prompt: Sequence[int], response: Sequence[int], text: str) -> list[float]:
    """What is counted in one response, in the order of :data:`COUNTED`; shares lie in [0, 1].

    Args:
        prompt: token ids of the whole prompt, no special tokens.
        response: those of the whole response.
        text: the response.
    """
    of_prompt, of_response = set(prompt), set(response)
    bigrams, prompt_bigrams = list(pairwise(response)), set(pairwise(prompt))
    kinds = [unicodedata.category(character) for character in text]
    last = next((kind for kind in reversed(kinds) if kind[0] not in "ZC"), "Cn")
    return [
        float(np.log1p(len(response))),
        _share(sum(token in of_prompt for token in response), len(response)),
        _share(len(of_prompt & of_response), len(of_prompt)),
        _share(len(of_response), len(response)),
        _share(len(set(bigrams)), len(bigrams)),
        _share(sum(bigram in prompt_bigrams for bigram in bigrams), len(bigrams)),
        _share(sum(kind[0] == "P" for kind in kinds), len(kinds)),
        _share(sum(kind[0] == "N" for kind in kinds), len(kinds)),
        _share(sum(kind[0] == "S" for kind in kinds), len(kinds)),
        _share(kinds.count("Lu"), len(kinds)),
        _share(sum(kind[0] == "Z" for kind in kinds), len(kinds)),
        float(np.log1p(text.count("\n"))),
        float(np.log1p(sum(character in QUESTION_MARKS for character in text))),
        len(text) / max(1, len(response)),
        float(last[0] == "P"),
    ]


def _share(part: int, whole: int) -> float:
    return part / max(1, whole)
