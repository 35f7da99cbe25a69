"""Pairs of texts to token ids: one rule for training the proxies and for scoring with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pdray.errors import UserError

Text = str | list[dict[str, str]]


@dataclass(frozen=True)
class EncodedPairs:
    """A batch of pairs as token ids; every list has one entry per pair.

    Attributes:
        chosen_ids, rejected_ids: token ids of prompt and response with special tokens, at most ``max_tokens``.
        len_chosen, len_rejected: tokens of the whole response, before any truncation.
        truncated: whether anything was cut off the pair.
    """

    chosen_ids: list[list[int]]
    rejected_ids: list[list[int]]
    len_chosen: list[int]
    len_rejected: list[int]
    truncated: list[bool]


class PairEncoder:
    """Encodes prompt, chosen and rejected as a reward model reads them.

    Strings are tokenised as prompt then response, with the tokenizer's own special tokens around them; a
    tokenizer that ends a text with none gets its EOS token, as TRL's RewardTrainer does. Lists of messages go
    through the chat template.

    Truncation: a response longer than ``max_tokens`` keeps its beginning; the prompt keeps its end (or start)
    in the room that the response leaves. The response is never cut off entirely. A text's ids depend on its own
    prompt and response alone, so a text that stands in several pairs is the same text in each.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_tokens: most tokens per text, special tokens included.
        keep_prompt: the side of a long prompt that survives.

    Raises:
        UserError: ``max_tokens`` leaves no room for text beside the special tokens.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, keep_prompt: Literal["end", "start"] = "end") -> None:
        self.tokenizer = tokenizer
        self.keep_prompt = keep_prompt
        self.max_tokens = max_tokens
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.prefix: list[int] = whole[:start]
        self.suffix: list[int] = whole[start + len(bare) :]
        if not self.suffix and tokenizer.eos_token_id is not None:
            self.suffix = [tokenizer.eos_token_id]
        if max_tokens <= len(self.prefix) + len(self.suffix):
            raise UserError(f"max_tokens is {max_tokens}, which the special tokens fill; raise it")

    def encode(self, prompts: list[Text], chosen: list[Text], rejected: list[Text]) -> EncodedPairs:
        """Encode a batch; the three lists have one entry per pair.

        Raises:
            UserError: messages are given but the tokenizer has no chat template, or its template refuses them.
        """
        if prompts and not isinstance(prompts[0], str):
            sides = [
                [self._split_chat(*text) for text in zip(prompts, responses, strict=True)]
                for responses in (chosen, rejected)
            ]
            around: tuple[list[int], list[int]] = ([], [])
        else:
            prompt_ids = self._bare(prompts)
            sides = [list(zip(prompt_ids, self._bare(responses), strict=True)) for responses in (chosen, rejected)]
            around = (self.prefix, self.suffix)
        room = self.max_tokens - sum(map(len, around))
        chosen_ids, rejected_ids = ([self._join(*text, room, *around) for text in side] for side in sides)
        return EncodedPairs(
            chosen_ids=chosen_ids,
            rejected_ids=rejected_ids,
            len_chosen=[len(response) for _, response in sides[0]],
            len_rejected=[len(response) for _, response in sides[1]],
            truncated=[
                any(len(prompt) + len(response) > room for prompt, response in pair)
                for pair in zip(*sides, strict=True)
            ],
        )

    def _bare(self, texts: list[Any]) -> list[list[int]]:
        if not texts:  # which fast tokenizers refuse
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _split_chat(self, prompt: Any, response: Any) -> tuple[list[int], list[int]]:
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the corpus holds messages but the tokenizer of {self.tokenizer.name_or_path} has no chat template; "
                "use a model that has one, or a corpus of strings"
            )
        prompt_ids = self._chat(prompt, add_generation_prompt=True)
        ids = self._chat(prompt + response)
        # Where the template writes the prompt differently once an answer follows, the response begins there.
        shared = next((i for i, pair in enumerate(zip(prompt_ids, ids, strict=False)) if len(set(pair)) > 1), None)
        split = min(len(prompt_ids), len(ids)) if shared is None else shared
        return ids[:split], ids[split:]

    def _chat(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except TemplateError as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise UserError(
                f"the chat template of the tokenizer of {self.tokenizer.name_or_path} refuses messages of the corpus "
                f"with the roles {roles} ({error}); use a model whose template takes them, or change the messages"
            ) from None
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _join(
        self, prompt: list[int], response: list[int], room: int, prefix: list[int], suffix: list[int]
    ) -> list[int]:
        response = response[:room]
        left = room - len(response)
        if len(prompt) > left:
            prompt = prompt[len(prompt) - left :] if self.keep_prompt == "end" else prompt[:left]
        return prefix + prompt + response + suffix


def check_unknown_tokens(tokenizer: Any, columns: list[pa.ChunkedArray], limit: float) -> None:
    """Refuse texts most of whose words a tokenizer does not know: their rewards would be those of other texts.

    Args:
        tokenizer: a Hugging Face tokenizer; one without a token for the unknown knows every text.
        columns: lists of token ids.
        limit: largest share of unknown tokens among all tokens.

    Raises:
        UserError: the share is above the limit.
    """
    unknown = tokenizer.unk_token_id
    # Some tokenizers name the token that ends or begins every text.
    marks = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}
    if unknown is None or unknown in marks:
        return
    ids = [pc.list_flatten(column) for column in columns]
    found = sum(pc.sum(pc.equal(one, unknown)).as_py() or 0 for one in ids)
    share = found / max(1, sum(map(len, ids)))
    if share > limit:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} does not know {share:.1%} of the tokens of the corpus, above "
            f"scores.max_unknown_tokens {limit:g}; copy the model's own tokenizer files into that folder, take a model "
            "that reads the corpus' language, or raise scores.max_unknown_tokens"
        )
