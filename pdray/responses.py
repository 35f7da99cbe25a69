"""A prompt and a response as a language model reads them: tokenised as TRL's DPOTrainer does, and cut to a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pdray.tokens import chat_ids


@dataclass(frozen=True)
class CutRule:
    """How prompt and response, or a prompt and its two responses, are cut.

    Where prompt and longer response do not fit into ``max_tokens`` together, the prompt loses its beginning until they
    do, but keeps its last ``prompt_tokens``; a BOS token stays in front of it. What a response then has too much is
    cut off its end, so at least ``max_tokens − prompt_tokens`` of it stay.

    Attributes:
        max_tokens: most tokens of prompt and response together.
        prompt_tokens: tokens of the prompt that stay in any case; below ``max_tokens``.
    """

    max_tokens: int
    prompt_tokens: int


def cut_rule(max_tokens: int, prompt_tokens: int | None) -> CutRule:
    """The rule of two settings; half of ``max_tokens`` is the prompt's where nothing else is said."""
    return CutRule(max_tokens, prompt_tokens or max_tokens // 2)


def cut_prompt(prompt: list[int], longest: int, rule: CutRule, bos: int | None) -> list[int]:
    """What stays of a prompt.

    Args:
        prompt: token ids.
        longest: tokens of its longest response.
        rule: the rule.
        bos: id of the token that a prompt may begin with and then keeps.
    """
    room = max(rule.prompt_tokens, rule.max_tokens - longest)
    if len(prompt) <= room:
        return prompt
    start = prompt[:1] if prompt[0] == bos else []
    return start + prompt[len(prompt) - room + len(start) :]


def prompt_ids(tokenizer: Any, prompts: list[Any]) -> list[list[int]]:
    """Prompts as token ids, all strings or all lists of messages; special tokens as the tokenizer puts them.

    Raises:
        UserError: see :func:`~pdray.tokens.chat_ids`.
    """
    if prompts and not isinstance(prompts[0], str):
        return [chat_ids(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]
    return _strings(tokenizer, prompts)


def text_ids(tokenizer: Any, prompts: list[Any], responses: list[Any]) -> list[list[int]]:
    """Every prompt with its response as token ids; a string ends with the EOS token.

    The response begins where the prompt alone ends or tokens merge across the border.

    Args:
        tokenizer: a Hugging Face tokenizer with an EOS token.
        prompts: see :func:`prompt_ids`.
        responses: of the same type, one each.

    Raises:
        UserError: see :func:`~pdray.tokens.chat_ids`.
    """
    if prompts and not isinstance(prompts[0], str):
        return [chat_ids(tokenizer, prompt + response) for prompt, response in zip(prompts, responses, strict=True)]
    eos = tokenizer.eos_token
    ended = [text if text.endswith(eos) else text + eos for text in responses]
    return _strings(tokenizer, [prompt + text for prompt, text in zip(prompts, ended, strict=True)])


def _strings(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:  # which fast tokenizers refuse
        return []
    ids: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"]
    return ids
