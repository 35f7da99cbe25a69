"""Prompt and response read apart: every distinct one is embedded once, a head reads the pair of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pdray.engines.engine import RewardEngine, Rewards
from pdray.engines.pair_features import combine, count
from pdray.rewards import RewardHead
from pdray.tokens import TextEncoder, TokenRule

Ids = tuple[int, ...]


@dataclass(frozen=True)
class ApartText:
    """A text whose prompt and response are read apart.

    Attributes:
        prompt: token ids with special tokens, at most ``max_tokens``.
        response: likewise.
        counted: see :func:`pdray.engines.pair_features.count`.
    """

    prompt: Ids
    response: Ids
    counted: tuple[float, ...]

    @property
    def parts(self) -> tuple[Ids, Ids]:
        """Prompt and response."""
        return self.prompt, self.response


@dataclass(frozen=True)
class EncodedApart:
    """A batch of texts; every list has one entry per text, as in :class:`pdray.tokens.EncodedTexts`.

    Attributes:
        ids: prompt and response of each text.
        num_tokens: tokens of the whole response, before any truncation.
        truncated: whether anything was cut off.
    """

    ids: list[ApartText]
    num_tokens: list[int]
    truncated: list[bool]

    @property
    def tokens(self) -> int:
        """That a model reads: those of every distinct prompt and response."""
        return sum(map(len, distinct_parts(self.ids)))


class ApartEncoder:
    """Encodes the prompt and the response of a text as two texts.

    Each may have ``max_tokens``: of a longer prompt the side that the rule keeps, of a longer response its beginning.

    Args:
        tokenizer: a Hugging Face tokenizer.
        rule: how a text is cut.

    Raises:
        UserError: see :class:`~pdray.tokens.TextEncoder`.
    """

    def __init__(self, tokenizer: Any, rule: TokenRule) -> None:
        self.tokenizer = tokenizer
        self.rule = rule
        self._whole = TextEncoder(tokenizer, rule)

    def encode(self, prompts: list[Any], responses: list[Any]) -> EncodedApart:
        """Encode a batch; see :meth:`pdray.tokens.TextEncoder.encode`."""
        parts, (before, after) = self._whole.split(prompts, responses)
        room = self.rule.max_tokens - len(before) - len(after)
        ids = []
        for (prompt, response), text in zip(parts, responses, strict=True):
            kept = prompt[-room:] if self.rule.keep_prompt == "end" else prompt[:room]
            counted = tuple(count(prompt, response, _content(text)))
            # A text of no tokens cannot be embedded: where there are no special tokens either, it is the EOS.
            one, other = ((*before, *part, *after) or (self._end,) for part in (kept, response[:room]))
            ids.append(ApartText(one, other, counted))
        return EncodedApart(
            ids,
            num_tokens=[len(response) for _, response in parts],
            truncated=[max(map(len, part)) > room for part in parts],
        )

    @property
    def _end(self) -> int:
        return int(self.tokenizer.eos_token_id or 0)


def _content(response: Any) -> str:
    return response if isinstance(response, str) else "\n".join(message["content"] for message in response)


class ApartEngine:
    """A :class:`~pdray.engines.engine.RewardEngine` that reads prompt and response apart.

    Texts that follow each other share their prompt's embedding, also from one call to the next.

    Args:
        embedder: gives an embedding for token ids.
        head: what makes rewards of the features; None for the features themselves.
    """

    def __init__(self, embedder: RewardEngine, head: RewardHead | None) -> None:
        self._embedder = embedder
        self._head = head
        self._last: dict[Ids, np.ndarray] = {}

    def score(self, token_ids: list[Any]) -> Rewards:
        """(texts, outputs) float32 of :class:`ApartText`."""
        texts: list[ApartText] = token_ids
        parts = [part for part in distinct_parts(texts) if part not in self._last]
        known = dict(self._last)
        if parts:
            known |= zip(parts, self._embedder.score([list(part) for part in parts]), strict=True)
        self._last = {texts[-1].prompt: known[texts[-1].prompt]} if texts else {}
        prompts, responses = (np.stack([known[text.parts[side]] for text in texts]) for side in (0, 1))
        features = combine(prompts, responses, np.array([text.counted for text in texts]))
        return features if self._head is None else self._head.rewards(features)


def distinct_parts(texts: list[ApartText]) -> list[Ids]:
    """Every distinct prompt and response of some texts, in the order in which they first stand."""
    return list(dict.fromkeys(part for text in texts for part in text.parts))
