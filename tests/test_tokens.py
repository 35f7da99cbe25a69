"""The one rule that turns pairs of texts into token ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pdray.errors import UserError
from pdray.tokens import PairEncoder, check_unknown_tokens
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


def test_a_text_is_prompt_then_response_between_the_tokenizers_own_marks(tokenizers: dict[str, Any]) -> None:
    encoded = PairEncoder(tokenizers["bert"], 32).encode([PROMPT], [CHOSEN], [REJECTED])
    assert words(tokenizers["bert"], encoded.chosen_ids[0]) == f"[CLS] {PROMPT} {CHOSEN} [SEP]"
    assert words(tokenizers["bert"], encoded.rejected_ids[0]) == f"[CLS] {PROMPT} {REJECTED} [SEP]"
    assert (encoded.len_chosen, encoded.len_rejected, encoded.truncated) == ([3], [1], [False])


def test_a_tokenizer_that_ends_a_text_with_nothing_gets_its_eos(tokenizers: dict[str, Any]) -> None:
    encoded = PairEncoder(tokenizers["llama"], 32).encode([PROMPT], [CHOSEN], [REJECTED])
    assert words(tokenizers["llama"], encoded.chosen_ids[0]) == f"<s> {PROMPT} {CHOSEN} </s>"


def test_a_bert_text_is_what_its_tokenizer_makes_of_it(tokenizers: dict[str, Any]) -> None:
    encoded = PairEncoder(tokenizers["bert"], 32).encode([PROMPT], [CHOSEN], [REJECTED])
    assert encoded.chosen_ids[0] == tokenizers["bert"](f"{PROMPT} {CHOSEN}")["input_ids"]


@pytest.mark.parametrize(
    ("keep", "before_chosen", "before_rejected"),
    [
        ("end", "way to look at it", "good way to look at it"),
        ("start", "what is the good way", "what is the good way to look"),
    ],
)
def test_a_long_prompt_keeps_one_side_in_the_room_that_the_response_leaves(
    tokenizers: dict[str, Any], keep: Any, before_chosen: str, before_rejected: str
) -> None:
    encoded = PairEncoder(tokenizers["bert"], 10, keep).encode([PROMPT], [CHOSEN], [REJECTED])
    assert words(tokenizers["bert"], encoded.chosen_ids[0]) == f"[CLS] {before_chosen} {CHOSEN} [SEP]"
    assert words(tokenizers["bert"], encoded.rejected_ids[0]).endswith(f"{before_rejected} {REJECTED} [SEP]")
    assert encoded.truncated == [True]


def test_a_text_is_the_same_in_every_pair_that_it_stands_in(tokenizers: dict[str, Any]) -> None:
    encoder = PairEncoder(tokenizers["bert"], 10)
    short = encoder.encode([PROMPT], [CHOSEN], [REJECTED]).chosen_ids
    assert encoder.encode([PROMPT], [CHOSEN], [PROMPT]).chosen_ids == short


def test_a_response_longer_than_the_room_keeps_its_beginning_and_counts_whole(tokenizers: dict[str, Any]) -> None:
    encoded = PairEncoder(tokenizers["bert"], 6).encode([PROMPT], [PROMPT], [REJECTED])
    assert words(tokenizers["bert"], encoded.chosen_ids[0]) == "[CLS] what is the good [SEP]"
    assert words(tokenizers["bert"], encoded.rejected_ids[0]) == "[CLS] look at it no [SEP]"
    assert (encoded.len_chosen, encoded.len_rejected, encoded.truncated) == ([9], [1], [True])


def test_texts_that_just_fit_are_whole(tokenizers: dict[str, Any]) -> None:
    encoder = PairEncoder(tokenizers["bert"], 14)
    assert encoder.encode([PROMPT], [CHOSEN], [REJECTED]).truncated == [False]
    assert len(encoder.encode([PROMPT], [CHOSEN], [REJECTED]).chosen_ids[0]) == 14
    assert encoder.encode([PROMPT + " a"], [CHOSEN], [REJECTED]).truncated == [True]


@pytest.mark.parametrize("max_tokens", range(3, 20))
def test_no_length_is_exceeded_and_no_response_disappears(tokenizers: dict[str, Any], max_tokens: int) -> None:
    prompts = ["a", PROMPT, " ".join([PROMPT] * 9)]
    encoded = PairEncoder(tokenizers["bert"], max_tokens).encode(prompts, [CHOSEN, PROMPT, CHOSEN], [REJECTED] * 3)
    no = tokenizers["bert"].convert_tokens_to_ids("no")
    for ids in encoded.chosen_ids + encoded.rejected_ids:
        assert 3 <= len(ids) <= max_tokens
    assert all(no in ids for ids in encoded.rejected_ids)


def test_the_empty_batch(tokenizers: dict[str, Any]) -> None:
    encoded = PairEncoder(tokenizers["bert"], 8).encode([], [], [])
    assert (encoded.chosen_ids, encoded.len_rejected, encoded.truncated) == ([], [], [])


def test_special_tokens_that_fill_the_room_are_refused(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="max_tokens is 2, which the special tokens fill; raise it"):
        PairEncoder(tokenizers["bert"], 2)


def chat(content: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def test_messages_go_through_the_chat_template(tokenizers: dict[str, Any]) -> None:
    pair = [chat(PROMPT)], [chat(CHOSEN, "assistant")], [chat(REJECTED, "assistant")]
    encoded = PairEncoder(tokenizers["chat"], 64).encode(*pair)
    expected = f"<|user|> {PROMPT} <|end|> <|assistant|> {CHOSEN} <|end|>"
    assert words(tokenizers["chat"], encoded.chosen_ids[0]) == expected
    assert (encoded.len_chosen, encoded.len_rejected) == ([4], [2])  # with the token that ends the message


def test_a_long_chat_prompt_is_cut_before_both_responses(tokenizers: dict[str, Any]) -> None:
    pair = [chat(PROMPT)], [chat(CHOSEN, "assistant")], [chat(REJECTED, "assistant")]
    encoded = PairEncoder(tokenizers["chat"], 8).encode(*pair)
    assert words(tokenizers["chat"], encoded.chosen_ids[0]) == f"at it <|end|> <|assistant|> {CHOSEN} <|end|>"
    assert (
        words(tokenizers["chat"], encoded.rejected_ids[0]) == f"to look at it <|end|> <|assistant|> {REJECTED} <|end|>"
    )
    assert encoded.truncated == [True]


@pytest.mark.parametrize("words", ["System role not supported", "Conversation roles must alternate"])
def test_messages_that_the_template_refuses_are_said_in_its_words(tokenizers: dict[str, Any], words: str) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = "{{ raise_exception('" + words + "') }}"
    with pytest.raises(UserError) as error:
        PairEncoder(tokenizer, 64).encode([chat(PROMPT, "system")], [chat(CHOSEN)], [chat(REJECTED)])
    assert str(error.value) == (
        f"the chat template of the tokenizer of {tokenizer.name_or_path} refuses messages of the corpus with the roles "
        f"system ({words}); use a model whose template takes them, or change the messages"
    )


def test_messages_need_a_chat_template(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no chat template; use a model that has one, or a corpus of strings"):
        PairEncoder(tokenizers["bert"], 64).encode([chat(PROMPT)], [chat(CHOSEN)], [chat(REJECTED)])


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
