"""Pairs as token ids: what TRL makes of them, and what is cut where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdray.alignment.encode import EncodedPair, PairEncoder, cut_pair, split_pair
from pdray.errors import UserError
from pdray.responses import CutRule, cut_rule
from tests import tiny
from tests.dpo_case import alignment

BOS = 2


def _pair(prompt: int, chosen: int, rejected: int) -> EncodedPair:
    """Token ids that say where they stood: prompts from 100, responses from 200 and 300."""
    return EncodedPair(*(list(range(start, start + n)) for start, n in ((100, prompt), (200, chosen), (300, rejected))))


def _tokenizer(folder: Path, chat: bool = True) -> Any:
    from pdray.models.loading import load_tokenizer_files

    return load_tokenizer_files(str(tiny.tiny_tokenizer(folder, "llama", chat)))


def test_a_pair_that_fits_stays_as_it_is() -> None:
    pair = _pair(6, 4, 2)
    assert cut_pair(pair, CutRule(10, 5), BOS) is pair


def test_a_long_prompt_loses_its_beginning_and_no_more_than_it_must() -> None:
    cut = cut_pair(_pair(20, 4, 2), CutRule(10, 5), BOS)
    assert cut.prompt == list(range(114, 120)), "the responses leave room for six"
    assert (cut.chosen, cut.rejected) == ([200, 201, 202, 203], [300, 301])
    assert (cut.prompt_cut, cut.response_cut) == (True, False)


def test_long_responses_lose_their_end_and_leave_the_prompt_its_share() -> None:
    cut = cut_pair(_pair(20, 30, 3), CutRule(10, 4), BOS)
    assert cut.prompt == [116, 117, 118, 119]
    assert (cut.chosen, cut.rejected) == (list(range(200, 206)), [300, 301, 302])
    assert (cut.prompt_cut, cut.response_cut) == (True, True)
    short = cut_pair(_pair(2, 30, 3), CutRule(10, 4), BOS)
    assert (len(short.prompt), len(short.chosen), short.prompt_cut) == (2, 8, False)


@pytest.mark.parametrize("prompt_tokens", range(1, 10))
@pytest.mark.parametrize("lengths", [(1000, 1, 1), (1000, 1000, 1), (0, 1000, 1000), (9, 9, 9), (11, 1, 2)])
def test_no_response_is_ever_lost(prompt_tokens: int, lengths: tuple[int, int, int]) -> None:
    cut = cut_pair(_pair(*lengths), CutRule(10, prompt_tokens), BOS)
    assert cut.longest <= 10
    assert not cut.is_empty
    assert len(cut.prompt) >= min(prompt_tokens, lengths[0])


def test_a_bos_token_stays_in_front_of_a_cut_prompt() -> None:
    pair = EncodedPair([BOS, *range(100, 120)], [200, 201], [300])
    assert cut_pair(pair, CutRule(8, 3), BOS).prompt == [BOS, *range(115, 120)]
    assert cut_pair(pair, CutRule(8, 3), None).prompt == list(range(114, 120))


def test_responses_begin_where_the_first_of_them_leaves_the_prompt() -> None:
    assert split_pair([1, 2, 3], [1, 2, 3, 4], [1, 2, 9, 9]) == EncodedPair([1, 2], [3, 4], [9, 9])
    assert split_pair([1, 2], [1, 2], [1, 2, 3]).is_empty


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_are_those_of_trl(tmp_path: Path, chat: bool) -> None:
    from datasets import Dataset
    from trl import DPOTrainer

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    rows = [
        {
            "prompt": turn("user", "what is the answer ?"),
            "chosen": turn("assistant", " it is good"),
            "rejected": turn("assistant", " no"),
        },
        {"prompt": turn("user", "go"), "chosen": turn("assistant", ""), "rejected": turn("assistant", "x</s>")},
    ]
    tokenizer = _tokenizer(tmp_path)
    args = type("Args", (), {"dataset_num_proc": None, "max_length": None, "truncation_mode": "keep_start"})
    trainer = type("Trainer", (), {"_tokenizer": tokenizer})
    theirs = DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, args, "train")
    columns = [[row[name] for row in rows] for name in ("prompt", "chosen", "rejected")]
    ours = PairEncoder(tokenizer, CutRule(512, 256)).encode(*columns)
    assert [pair.prompt for pair in ours] == list(theirs["prompt_ids"])
    assert [pair.chosen for pair in ours] == list(theirs["chosen_ids"])
    assert [pair.rejected for pair in ours] == list(theirs["rejected_ids"])


def test_messages_without_a_chat_template_are_refused(tmp_path: Path) -> None:
    encoder = PairEncoder(_tokenizer(tmp_path, chat=False), CutRule(64, 32))
    message = [[{"role": "user", "content": "go"}]]
    with pytest.raises(UserError, match="has no chat template; use a model that has one, or a corpus of strings"):
        encoder.encode(message, message, message)


def test_a_key_tells_where_the_responses_part() -> None:
    keys = {EncodedPair(*ids).key() for ids in (([1, 2], [3], [4]), ([1], [2, 3], [4]), ([1, 2], [3, 4], []))}
    assert len(keys) == 3
    assert EncodedPair([1, 2], [3], [4], prompt_cut=True).key() in keys


def test_half_of_the_budget_is_the_prompts_unless_told_otherwise() -> None:
    assert cut_rule(100, None) == CutRule(100, 50)
    assert cut_rule(100, 99) == CutRule(100, 99)
    with pytest.raises(ValueError, match="prompt_tokens 100 fills max_tokens 100 and leaves no room for a response"):
        alignment(Path("policy"), max_tokens=100, prompt_tokens=100)
