"""Tokens of a sample of the corpus, as the stages would read it with the config's models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pdray.config import AlignmentConfig, LogprobsConfig, ScoresConfig
from pdray.corpus.rows import canonical
from pdray.models.loading import load_tokenizer_files
from pdray.plan.corpus import CorpusFacts
from pdray.plan.flops import Lengths
from pdray.responses import CutRule, cut_rule
from pdray.tokens import TextEncoder, token_rule

SAMPLED = 1000  # pairs that are tokenised


@dataclass(frozen=True)
class Texts:
    """What a reward model reads of the texts of a corpus.

    Attributes:
        whole: of prompt and response together, cut, with special tokens.
        prompts, responses: of each alone, not cut.
        read_prompts: of the part that is left of a prompt, which all responses to it begin with.
        cut: share of the texts that are cut.
    """

    whole: Lengths
    prompts: Lengths
    responses: Lengths
    read_prompts: Lengths
    cut: float


@dataclass(frozen=True)
class Pairs:
    """What a training reads of pairs.

    Attributes:
        longest: of prompt and longer response together, to which the other is padded.
    """

    longest: Lengths


def sampled(facts: CorpusFacts, seed: int) -> list[dict[str, Any]]:
    """Some of the pairs that were read, drawn with a seed."""
    rows = np.random.default_rng([seed, 2]).permutation(len(facts.sample))[:SAMPLED]
    found: list[dict[str, Any]] = facts.sample.take(np.sort(rows)).to_pylist()
    return found


def text_lengths(pairs: list[dict[str, Any]], folder: str, scores: ScoresConfig) -> Texts:
    """Lengths of the distinct texts of some pairs for one model.

    Raises:
        UserError: the tokenizer cannot be read or does not take the texts.
    """
    rule = token_rule(scores)
    encoder = TextEncoder(load_tokenizer_files(folder), rule)
    distinct = {
        canonical([pair["prompt"], pair[side]]): (pair["prompt"], pair[side])
        for pair in pairs
        for side in ("chosen", "rejected")
    }
    texts = sorted(distinct.values(), key=canonical)
    prompts, responses = [list(column) for column in zip(*texts, strict=True)]
    parts, around = encoder.split(prompts, responses)
    special = sum(map(len, around))
    prompt, response = (np.array([len(part[side]) for part in parts], np.int64) for side in (0, 1))
    kept = np.minimum(prompt, rule.prompt_tokens)
    whole = np.minimum(kept + response + special, rule.max_tokens)
    first = np.unique([canonical(text) for text in prompts], return_index=True)[1]
    return Texts(
        whole=Lengths(whole),
        prompts=Lengths(prompt[first]),
        responses=Lengths(response),
        read_prompts=Lengths(kept[first]),
        cut=float((whole < prompt + response + special).mean()),
    )


def pair_lengths(pairs: list[dict[str, Any]], alignment: AlignmentConfig) -> Pairs:
    """Lengths of some pairs as the alignment cuts them.

    Raises:
        UserError: the tokenizer cannot be read, has no EOS token, or does not take the texts.
    """
    from pdray.alignment.encode import PairEncoder
    from pdray.alignment.inputs import policy_tokenizer

    encoder = PairEncoder(policy_tokenizer(alignment.policy), cut_rule(alignment.max_tokens, alignment.prompt_tokens))
    columns = [[pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")]
    return Pairs(Lengths(np.array([one.longest for one in encoder.encode(*columns)], np.int64)))


def response_lengths(pairs: list[dict[str, Any]], policy: str, rule: CutRule) -> Lengths:
    """Lengths of prompts with one response each, as log-probabilities are read.

    Raises:
        UserError: as :func:`pair_lengths`.
    """
    from pdray.engines.response_text import ResponseEncoder

    encoder = ResponseEncoder(load_tokenizer_files(policy), rule)
    prompts = [pair["prompt"] for pair in pairs]
    encoded = [encoder.encode(prompts, [pair[side] for pair in pairs]).ids for side in ("chosen", "rejected")]
    return Lengths(np.array([len(text.ids) for texts in encoded for text in texts], np.int64))


def logprobs_rule(logprobs: LogprobsConfig) -> CutRule:
    """How its texts are cut."""
    return cut_rule(logprobs.max_tokens, logprobs.prompt_tokens)
