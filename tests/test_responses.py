"""A prompt and its response as a language model reads them, beside the alignment's pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdray.alignment.encode import PairEncoder
from pdray.engines.response_text import ResponseEncoder, ResponseText
from pdray.errors import UserError
from pdray.models.loading import load_tokenizer_files
from pdray.responses import CutRule, cut_prompt
from tests.tiny import tiny_tokenizer

PROMPT = "what is the good way to look at it"  # nine words, one token each
BOS = 2


def tokenizer(folder: Path, chat: bool = False) -> Any:
    return load_tokenizer_files(str(tiny_tokenizer(folder, "llama", chat)))


def turns(texts: list[str], role: str, chat: bool) -> list[Any]:
    return [[{"role": role, "content": text}] for text in texts] if chat else texts


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("max_tokens", [64, 9])
def test_a_text_is_read_as_the_alignment_reads_a_pair_of_it(tmp_path: Path, chat: bool, max_tokens: int) -> None:
    made, rule = tokenizer(tmp_path, chat), CutRule(max_tokens, 4)
    prompts = turns([PROMPT, PROMPT, "what is right"], "user", chat)
    responses = turns([" it is right", " no one can see the way", " that"], "assistant", chat)
    texts = ResponseEncoder(made, rule).encode(prompts, responses)
    pairs = PairEncoder(made, rule).encode(prompts, responses, responses)
    assert texts.ids == [ResponseText(pair.prompt + pair.chosen, len(pair.prompt)) for pair in pairs]
    assert texts.num_tokens == [len(pair.chosen) for pair in pairs]
    assert texts.truncated == [pair.prompt_cut or pair.response_cut for pair in pairs]
    assert any(texts.truncated) is (max_tokens == 9)
    assert texts.tokens == sum(len(text.ids) for text in texts.ids)
    assert not ResponseEncoder(made, rule).encode([], []).ids


def test_a_string_ends_with_eos_and_the_first_token_of_all_is_never_summed(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    (text,) = ResponseEncoder(made, CutRule(64, 32)).encode(["what is"], [" it is right"]).ids
    assert made.convert_ids_to_tokens(text.ids) == ["<s>", "what", "is", "it", "is", "right", "</s>"]
    assert (text.first, text.num_summed) == (3, 4)
    made.bos_token = None
    bare = load_tokenizer_files(str(tmp_path))
    bare.backend_tokenizer.post_processor = None
    (text,) = ResponseEncoder(bare, CutRule(64, 32)).encode([""], ["it is"]).ids
    assert (bare.convert_ids_to_tokens(text.ids), text.first, text.num_summed) == (["it", "is", "</s>"], 1, 2)


def test_a_tokenizer_without_an_eos_token_is_refused(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    made.eos_token = None
    with pytest.raises(UserError, match=r"has no EOS token; set one in its tokenizer_config.json"):
        ResponseEncoder(made, CutRule(64, 32))


def test_a_prompt_keeps_its_end_and_its_bos_token() -> None:
    rule = CutRule(10, 5)
    assert cut_prompt([BOS, *range(100, 104)], 9, rule, BOS) == [BOS, 100, 101, 102, 103]
    assert cut_prompt([BOS, *range(100, 110)], 9, rule, BOS) == [BOS, *range(106, 110)]
    assert cut_prompt([BOS, *range(100, 110)], 3, rule, None) == list(range(103, 110))
    assert cut_prompt([], 30, rule, BOS) == []
