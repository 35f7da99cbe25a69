"""Preference pairs as token ids, cut to a budget so that no pair is lost."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdray.responses import CutRule, cut_prompt, prompt_ids, text_ids
from pdray.tokens import common_prefix


@dataclass(frozen=True)
class EncodedPair:
    """A pair as token ids; prompt and either response are at most ``max_tokens`` together.

    Attributes:
        prompt, chosen, rejected: token ids; a response is empty where the tokenizer makes nothing of it.
        prompt_cut: whether the prompt lost its beginning.
        response_cut: whether a response lost its end.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_cut: bool = False
    response_cut: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether a response has no token, so that there is nothing to prefer."""
        return not self.chosen or not self.rejected

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    def key(self) -> bytes:
        """Hash of all tokens, 8 bytes: two pairs of n have the same one by chance with n² / 4e19."""
        ids = [len(self.prompt), len(self.chosen), *self.prompt, *self.chosen, *self.rejected]
        return hashlib.blake2b(np.array(ids, "<i4").tobytes(), digest_size=8).digest()


class PairEncoder:
    """Tokenises pairs as TRL's DPOTrainer does, then cuts them by a rule.

    A string is tokenised with its prompt, and the response begins where the prompt alone ends or tokens merge across
    the border; it gets the EOS token. Lists of messages go through the chat template.

    Args:
        tokenizer: a Hugging Face tokenizer with an EOS token.
        rule: how a pair is cut.
    """

    def __init__(self, tokenizer: Any, rule: CutRule) -> None:
        self.tokenizer = tokenizer
        self.rule = rule

    def encode(self, prompts: list[Any], chosen: list[Any], rejected: list[Any]) -> list[EncodedPair]:
        """Encode a batch; the lists have one entry per pair, all strings or all lists of messages.

        Raises:
            UserError: messages are given but the tokenizer has no chat template, or its template refuses them.
        """
        ids = (
            prompt_ids(self.tokenizer, prompts),
            text_ids(self.tokenizer, prompts, chosen),
            text_ids(self.tokenizer, prompts, rejected),
        )
        return [cut_pair(split_pair(*one), self.rule, self.tokenizer.bos_token_id) for one in zip(*ids, strict=True)]


def split_pair(prompt: list[int], with_chosen: list[int], with_rejected: list[int]) -> EncodedPair:
    """A pair from its prompt alone and the prompt with either response: they part where the first of them differs."""
    start = min(common_prefix(prompt, with_chosen), common_prefix(prompt, with_rejected))
    return EncodedPair(prompt[:start], with_chosen[start:], with_rejected[start:])


def cut_pair(pair: EncodedPair, rule: CutRule, bos: int | None) -> EncodedPair:
    """A pair cut by a rule; see :class:`~pdray.responses.CutRule`.

    Args:
        pair: uncut.
        rule: the rule.
        bos: id of the token that a prompt may begin with and then keeps.
    """
    if pair.longest <= rule.max_tokens:
        return pair
    prompt = cut_prompt(pair.prompt, max(len(pair.chosen), len(pair.rejected)), rule, bos)
    left = rule.max_tokens - len(prompt)
    return EncodedPair(
        prompt,
        pair.chosen[:left],
        pair.rejected[:left],
        prompt_cut=len(prompt) < len(pair.prompt),
        response_cut=max(len(pair.chosen), len(pair.rejected)) > left,
    )
