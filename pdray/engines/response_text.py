"""Texts of which an engine reads how likely the response is, given its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pdray.errors import UserError
from pdray.responses import CutRule, cut_prompt, prompt_ids, text_ids
from pdray.tokens import common_prefix


@dataclass(frozen=True)
class ResponseText:
    """A text whose response is summed.

    Attributes:
        ids: token ids of prompt and response, at most ``max_tokens``.
        first: the first token whose log-probability counts; that of the response, but never the first of all tokens,
            which follows nothing.
    """

    ids: list[int]
    first: int

    @property
    def num_summed(self) -> int:
        """Tokens whose log-probabilities are added up."""
        return max(0, len(self.ids) - self.first)


@dataclass(frozen=True)
class EncodedResponses:
    """A batch of texts; every list has one entry per text, as in :class:`pdray.tokens.EncodedTexts`.

    Attributes:
        ids: each text.
        num_tokens: tokens whose log-probabilities are added up.
        truncated: whether anything was cut off.
    """

    ids: list[ResponseText]
    num_tokens: list[int]
    truncated: list[bool]

    @property
    def tokens(self) -> int:
        """That a model reads."""
        return sum(len(text.ids) for text in self.ids)


class ResponseEncoder:
    """Encodes a text as the alignment encodes a pair of it: where a pair fits, both read the same tokens.

    Args:
        tokenizer: a Hugging Face tokenizer.
        rule: how a text is cut.

    Raises:
        UserError: the tokenizer has no EOS token, which ends a response.
    """

    def __init__(self, tokenizer: Any, rule: CutRule) -> None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path} has no EOS token; set one in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.rule = rule

    def encode(self, prompts: list[Any], responses: list[Any]) -> EncodedResponses:
        """Encode a batch; both lists have one entry per text.

        Raises:
            UserError: messages are given but the tokenizer has no chat template, or its template refuses them.
        """
        distinct = list({str(prompt): prompt for prompt in prompts}.values())
        alone = dict(zip(map(str, distinct), prompt_ids(self.tokenizer, distinct), strict=True))
        whole = text_ids(self.tokenizer, prompts, responses)
        texts = [self._cut(alone[str(prompt)], ids) for prompt, ids in zip(prompts, whole, strict=True)]
        return EncodedResponses(
            texts,
            num_tokens=[text.num_summed for text in texts],
            truncated=[len(text.ids) < len(ids) for text, ids in zip(texts, whole, strict=True)],
        )

    def _cut(self, prompt: list[int], ids: list[int]) -> ResponseText:
        start = common_prefix(prompt, ids)
        kept = cut_prompt(ids[:start], len(ids) - start, self.rule, self.tokenizer.bos_token_id)
        response = ids[start:][: self.rule.max_tokens - len(kept)]
        return ResponseText(kept + response, max(1, len(kept)))
