"""The one rule that turns texts into token ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pdray.config import ScoresConfig
from pdray.errors import UserError
from pdray.tokens import TextEncoder, TokenRule, check_unknown_tokens, token_rule
from tests.tiny import tiny_tokenizer

PROMPT = "what is the good way to look at it"  # nine words, one token each
CHOSEN = "it is right"
REJECTED = "no"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from transformers import AutoTokenizer

    root = tmp_path_factory.mktemp("tokenizers")
    folders = {
        "bert": tiny_tokenizer(root / "bert", "bert"),
        "llama": tiny_tokenizer(root / "llama", "llama"),
        "chat": tiny_tokenizer(root / "chat", "llama", chat=True),
    }
    return {name: AutoTokenizer.from_pretrained(Path(folder)) for name, folder in folders.items()}


def words(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def encoder(tokenizer: Any, max_tokens: int, prompt_tokens: int, keep: Any = "end") -> TextEncoder:
    return TextEncoder(tokenizer, TokenRule(max_tokens, prompt_tokens, keep))


def test_a_text_is_prompt_then_response_between_the_tokenizers_own_marks(tokenizers: dict[str, Any]) -> None:
    encoded = encoder(tokenizers["bert"], 32, 16).encode([PROMPT, PROMPT], [CHOSEN, REJECTED])
    assert [words(tokenizers["bert"], ids) for ids in encoded.ids] == [
        f"[CLS] {PROMPT} {CHOSEN} [SEP]",
        f"[CLS] {PROMPT} {REJECTED} [SEP]",
    ]
    assert (encoded.num_tokens, encoded.truncated) == ([3, 1], [False, False])


def test_a_tokenizer_that_ends_a_text_with_nothing_gets_its_eos(tokenizers: dict[str, Any]) -> None:
    encoded = encoder(tokenizers["llama"], 32, 16).encode([PROMPT], [CHOSEN])
    assert words(tokenizers["llama"], encoded.ids[0]) == f"<s> {PROMPT} {CHOSEN} </s>"


def test_a_bert_text_is_what_its_tokenizer_makes_of_it(tokenizers: dict[str, Any]) -> None:
    encoded = encoder(tokenizers["bert"], 32, 16).encode([PROMPT], [CHOSEN])
    assert encoded.ids[0] == tokenizers["bert"](f"{PROMPT} {CHOSEN}")["input_ids"]


@pytest.mark.parametrize(("keep", "kept"), [("end", "look at it"), ("start", "what is the")])
def test_a_long_prompt_is_the_same_whatever_its_response(tokenizers: dict[str, Any], keep: Any, kept: str) -> None:
    encoded = encoder(tokenizers["bert"], 10, 3, keep).encode([PROMPT] * 3, [CHOSEN, REJECTED, PROMPT])
    assert [words(tokenizers["bert"], ids) for ids in encoded.ids] == [
        f"[CLS] {kept} {CHOSEN} [SEP]",
        f"[CLS] {kept} {REJECTED} [SEP]",
        f"[CLS] {kept} what is the good way [SEP]",
    ]
    assert encoded.truncated == [True] * 3
    assert encoded.num_tokens == [3, 1, 9]  # the whole response, before it is cut


def test_a_short_prompt_leaves_its_room_to_the_response(tokenizers: dict[str, Any]) -> None:
    encoded = encoder(tokenizers["bert"], 8, 4).encode(["it is"], [PROMPT])
    assert words(tokenizers["bert"], encoded.ids[0]) == "[CLS] it is what is the good [SEP]"


def test_a_text_is_the_same_in_every_batch_that_it_stands_in(tokenizers: dict[str, Any]) -> None:
    one = encoder(tokenizers["bert"], 10, 4)
    alone = one.encode([PROMPT], [CHOSEN]).ids[0]
    assert one.encode(["a", PROMPT, PROMPT], [PROMPT, CHOSEN, REJECTED]).ids[1] == alone


def test_texts_that_just_fit_are_whole(tokenizers: dict[str, Any]) -> None:
    one = encoder(tokenizers["bert"], 14, 9)
    assert one.encode([PROMPT], [CHOSEN]).truncated == [False]
    assert len(one.encode([PROMPT], [CHOSEN]).ids[0]) == 14
    assert one.encode([PROMPT], [CHOSEN + " a"]).truncated == [True]
    assert one.encode([PROMPT + " a"], [CHOSEN]).truncated == [True]


@pytest.mark.parametrize("max_tokens", range(4, 20))
def test_no_length_is_exceeded_and_no_response_disappears(tokenizers: dict[str, Any], max_tokens: int) -> None:
    prompts = ["a", PROMPT, " ".join([PROMPT] * 9)]
    for prompt_tokens in range(1, max_tokens - 2):
        encoded = encoder(tokenizers["bert"], max_tokens, prompt_tokens).encode(prompts, ["no"] * 3)
        no = tokenizers["bert"].convert_tokens_to_ids("no")
        assert all(4 <= len(ids) <= max_tokens and no in ids for ids in encoded.ids)


def test_the_empty_batch(tokenizers: dict[str, Any]) -> None:
    encoded = encoder(tokenizers["bert"], 8, 4).encode([], [])
    assert (encoded.ids, encoded.num_tokens, encoded.truncated) == ([], [], [])


def test_a_prompt_budget_that_leaves_no_response_is_refused(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="max_tokens is 8, which 6 prompt tokens and 2 special tokens fill; raise it"):
        encoder(tokenizers["bert"], 8, 6)


@pytest.mark.parametrize(("prompt_tokens", "expected"), [(None, 32), (10, 10)])
def test_half_of_the_tokens_are_the_prompts_where_nothing_else_is_said(prompt_tokens: Any, expected: int) -> None:
    rule = token_rule(ScoresConfig(max_tokens=64, prompt_tokens=prompt_tokens, keep_prompt="start"))
    assert rule == TokenRule(64, expected, "start")


def chat(content: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def test_messages_go_through_the_chat_template(tokenizers: dict[str, Any]) -> None:
    encoded = encoder(tokenizers["chat"], 64, 32).encode([chat(PROMPT)], [chat(CHOSEN, "assistant")])
    assert words(tokenizers["chat"], encoded.ids[0]) == f"<|user|> {PROMPT} <|end|> <|assistant|> {CHOSEN} <|end|>"
    assert encoded.num_tokens == [4]  # with the token that ends the message


def test_a_long_chat_prompt_is_cut_before_all_responses_alike(tokenizers: dict[str, Any]) -> None:
    responses = [chat(CHOSEN, "assistant"), chat(REJECTED, "assistant")]
    encoded = encoder(tokenizers["chat"], 8, 4).encode([chat(PROMPT)] * 2, responses)
    assert [words(tokenizers["chat"], ids) for ids in encoded.ids] == [
        f"at it <|end|> <|assistant|> {CHOSEN} <|end|>",
        f"at it <|end|> <|assistant|> {REJECTED} <|end|>",
    ]
    assert encoded.truncated == [True, True]


@pytest.mark.parametrize("words", ["System role not supported", "Conversation roles must alternate"])
def test_messages_that_the_template_refuses_are_said_in_its_words(tokenizers: dict[str, Any], words: str) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = "{{ raise_exception('" + words + "') }}"
    with pytest.raises(UserError) as error:
        encoder(tokenizer, 64, 32).encode([chat(PROMPT, "system")], [chat(CHOSEN)])
    assert str(error.value) == (
        f"the chat template of the tokenizer of {tokenizer.name_or_path} refuses messages of the corpus with the roles "
        f"system ({words}); use a model whose template takes them, or change the messages"
    )


def test_messages_need_a_chat_template(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no chat template; use a model that has one, or a corpus of strings"):
        encoder(tokenizers["bert"], 64, 32).encode([chat(PROMPT)], [chat(CHOSEN)])


@pytest.mark.parametrize(("text", "share"), [("the people", 0), ("the zebra people zebra", 0.5), ("zebra", 1)])
def test_unknown_tokens_are_counted(tokenizers, text, share):
    tokenizer = tokenizers["llama"]
    ids = pa.chunked_array([pa.array([tokenizer(text, add_special_tokens=False)["input_ids"]] * 2)])
    check_unknown_tokens(tokenizer, [ids, ids], share)
    if share:
        with pytest.raises(UserError, match=rf"does not know {share:.1%} of the tokens.*max_unknown_tokens 0\.1; copy"):
            check_unknown_tokens(tokenizer, [ids, ids], 0.1)


def test_a_token_that_ends_every_text_is_not_unknown(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["llama"])
    tokenizer.unk_token = tokenizer.eos_token
    ids = pa.chunked_array([pa.array([[5, tokenizer.eos_token_id]])])
    check_unknown_tokens(tokenizer, [ids], 0.1)
