"""Texts to token ids: one rule for training the proxies and for scoring with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pdray.config import ScoresConfig
from pdray.errors import UserError

Text = str | list[dict[str, str]]
TEMPLATE_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError)
MOST_TEMPLATE = 100  # times the content, and as many characters around it, that a chat template may write


@dataclass(frozen=True)
class TokenRule:
    """How a text is cut.

    Attributes:
        max_tokens: most tokens of prompt and response together, special tokens included.
        prompt_tokens: most tokens of the prompt, whatever its response leaves: all responses to a prompt then begin
            with the same tokens, which an engine computes once.
        keep_prompt: the side of a long prompt that survives.
    """

    max_tokens: int
    prompt_tokens: int
    keep_prompt: Literal["end", "start"] = "end"


@dataclass(frozen=True)
class EncodedTexts:
    """A batch of texts as token ids; every list has one entry per text.

    Attributes:
        ids: token ids of prompt and response with special tokens, at most ``max_tokens``.
        num_tokens: tokens of the whole response, before any truncation.
        truncated: whether anything was cut off.
    """

    ids: list[list[int]]
    num_tokens: list[int]
    truncated: list[bool]

    @property
    def tokens(self) -> int:
        """That a model reads."""
        return sum(map(len, self.ids))


class TextEncoder:
    """Encodes a prompt and a response as a reward model reads them.

    Strings are tokenised as prompt then response, with the tokenizer's own special tokens around them; a
    tokenizer that ends a text with none gets its EOS token, as TRL's RewardTrainer does. Lists of messages go
    through the chat template.

    Truncation: a prompt longer than ``prompt_tokens`` keeps its end (or start); the response keeps its beginning in
    the room that this leaves, so at least ``max_tokens − prompt_tokens`` less the special tokens.

    Args:
        tokenizer: a Hugging Face tokenizer.
        rule: how a text is cut.

    Raises:
        UserError: the rule leaves no room for a response beside prompt and special tokens.
    """

    def __init__(self, tokenizer: Any, rule: TokenRule) -> None:
        self.tokenizer = tokenizer
        self.rule = rule
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.prefix: list[int] = whole[:start]
        self.suffix: list[int] = whole[start + len(bare) :]
        if not self.suffix and tokenizer.eos_token_id is not None:
            self.suffix = [tokenizer.eos_token_id]
        special = len(self.prefix) + len(self.suffix)
        if rule.max_tokens <= rule.prompt_tokens + special:
            raise UserError(
                f"max_tokens is {rule.max_tokens}, which {rule.prompt_tokens} prompt tokens and {special} special "
                "tokens fill; raise it or lower scores.prompt_tokens"
            )

    def encode(self, prompts: list[Any], responses: list[Any]) -> EncodedTexts:
        """Encode a batch; both lists have one entry per text, and equal neighbouring prompts are tokenised once.

        Raises:
            UserError: messages are given but the tokenizer has no chat template, or its template refuses them.
        """
        parts, around = self.split(prompts, responses)
        joined = [self._join(prompt, response, *around) for prompt, response in parts]
        whole = [len(prompt) + len(response) + sum(map(len, around)) for prompt, response in parts]
        return EncodedTexts(
            ids=joined,
            num_tokens=[len(response) for _, response in parts],
            truncated=[len(ids) < length for ids, length in zip(joined, whole, strict=True)],
        )

    def split(
        self, prompts: list[Any], responses: list[Any]
    ) -> tuple[list[tuple[list[int], list[int]]], tuple[list[int], list[int]]]:
        """Token ids of every prompt and response, whole; and the special tokens before and after a text.

        The arguments and errors are those of :meth:`encode`.
        """
        if prompts and not isinstance(prompts[0], str):
            return [self._split_chat(*text) for text in zip(prompts, responses, strict=True)], ([], [])
        return list(zip(self._prompts(prompts), self._bare(responses), strict=True)), (self.prefix, self.suffix)

    def _prompts(self, prompts: list[str]) -> list[list[int]]:
        distinct = list(dict.fromkeys(prompts))
        ids = dict(zip(distinct, self._bare(distinct), strict=True))
        return [ids[prompt] for prompt in prompts]

    def _bare(self, texts: list[str]) -> list[list[int]]:
        if not texts:  # which fast tokenizers refuse
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _split_chat(self, prompt: Any, response: Any) -> tuple[list[int], list[int]]:
        prompt_ids = chat_ids(self.tokenizer, prompt, add_generation_prompt=True)
        ids = chat_ids(self.tokenizer, prompt + response)
        # Where the template writes the prompt differently once an answer follows, the response begins there.
        split = common_prefix(prompt_ids, ids)
        return ids[:split], ids[split:]

    def _join(self, prompt: list[int], response: list[int], prefix: list[int], suffix: list[int]) -> list[int]:
        budget = self.rule.prompt_tokens
        if len(prompt) > budget:
            prompt = prompt[len(prompt) - budget :] if self.rule.keep_prompt == "end" else prompt[:budget]
        room = self.rule.max_tokens - len(prefix) - len(suffix) - len(prompt)
        return prefix + prompt + response[:room] + suffix


def common_prefix(ids: list[int], others: list[int]) -> int:
    """How many leading tokens two texts share."""
    if others[: len(ids)] == ids:
        return len(ids)
    return next((i for i, pair in enumerate(zip(ids, others, strict=False)) if len(set(pair)) > 1), len(others))


def chat_ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    """Messages as token ids, through the tokenizer's chat template.

    Args:
        tokenizer: a Hugging Face tokenizer.
        messages: {role, content} each.
        options: of ``apply_chat_template``.

    Raises:
        UserError: there is no chat template, or it refuses the messages, or writes far more than they hold.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError(
            f"the corpus holds messages but the tokenizer of {tokenizer.name_or_path} has no chat template; "
            "use a model that has one, or a corpus of strings"
        )
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except (TemplateError, *TEMPLATE_ERRORS) as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise UserError(
            f"the chat template of the tokenizer of {tokenizer.name_or_path} refuses messages of the corpus "
            f"with the roles {roles} ({error}); use a model whose template takes them, or change the messages"
        ) from None
    given = sum(len(message["content"]) for message in messages)
    if len(text) > MOST_TEMPLATE * (given + MOST_TEMPLATE):
        raise UserError(
            f"the chat template of the tokenizer of {tokenizer.name_or_path} makes {len(text):,} characters of "
            f"{given:,}; correct the template"
        )
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def token_rule(scores: ScoresConfig) -> TokenRule:
    """The rule of a run; half of ``max_tokens`` is the prompt's where nothing else is said."""
    return TokenRule(scores.max_tokens, scores.prompt_tokens or scores.max_tokens // 2, scores.keep_prompt)


def count_unknown(tokenizer: Any, columns: list[pa.ChunkedArray]) -> tuple[int, int]:
    """Tokens that a tokenizer does not know, and all tokens.

    Args:
        tokenizer: a Hugging Face tokenizer; one without a token for the unknown knows every text.
        columns: lists of token ids.
    """
    unknown = tokenizer.unk_token_id
    ids = [pc.list_flatten(column) for column in columns]
    total = sum(map(len, ids))
    # Some tokenizers name the token that ends or begins every text.
    marks = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}
    if unknown is None or unknown in marks:
        return 0, total
    return sum(pc.sum(pc.equal(one, unknown)).as_py() or 0 for one in ids), total


def require_known(folder: str, unknown: int, total: int, limit: float, section: str = "scores") -> None:
    """Refuse texts most of whose words a tokenizer does not know: what a model says would be said of other texts.

    Args:
        folder: of the tokenizer.
        unknown: tokens that it does not know.
        total: all tokens.
        limit: largest share of unknown ones.
        section: of the config that sets it, for the message.

    Raises:
        UserError: the share is above the limit.
    """
    share = unknown / max(1, total)
    if share > limit:
        raise UserError(
            f"the tokenizer of {folder} does not know {share:.1%} of the tokens of the corpus, above "
            f"{section}.max_unknown_tokens {limit:g}; copy the model's own tokenizer files into that folder, take a "
            f"model that reads the corpus' language, or raise {section}.max_unknown_tokens"
        )


def check_unknown_tokens(tokenizer: Any, columns: list[pa.ChunkedArray], limit: float, section: str = "scores") -> None:
    """:func:`require_known` for some columns of token ids."""
    require_known(tokenizer.name_or_path, *count_unknown(tokenizer, columns), limit, section)
