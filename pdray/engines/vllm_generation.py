"""Answers to prompts in vLLM's generating runner, inside the process of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pdray.engines.engine import EngineOptions, limit_threads
from pdray.engines.vllm_engine import load_llm, require_vllm
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.responses import CutRule, cut_prompt, prompt_ids


@dataclass(frozen=True)
class Decoding:
    """How answers are made; picklable.

    Attributes:
        max_tokens: most tokens of an answer.
        prompt_tokens: most tokens of a prompt, which loses its beginning.
        temperature: 0 takes the likeliest token.
        seed: of the sampling; each prompt has a generator of its own, so that no other prompt changes its answer.
    """

    max_tokens: int
    prompt_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """What a policy said.

    Attributes:
        text: without special tokens.
        num_tokens: of the answer.
        cut: whether it ended for want of tokens.
    """

    text: str
    num_tokens: int
    cut: bool


class Generator(Protocol):
    """One policy, loaded."""

    def answers(self, prompts: list[Any]) -> list[Answer]:
        """One for each prompt; prompts are all strings or all lists of messages."""
        ...


GeneratorLoader = Callable[[str, EngineOptions, Decoding], Generator]


class VllmGenerator:
    """A language model in vLLM.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.engines.engine.EngineOptions`; its ``max_tokens`` are those of prompt and answer.
        decoding: see :class:`Decoding`.

    Raises:
        UserError: vLLM is not installed, or the tokenizer does not load.
    """

    def __init__(self, model_path: str, options: EngineOptions, decoding: Decoding) -> None:
        from pdray.models.loading import load_tokenizer_files

        limit_threads(options.threads)
        try:
            require_vllm(options)
        except UserError as error:
            raise UserError(
                f"evaluation.generation needs vLLM, which cannot be imported here ({error.__cause__}); install "
                "pdray[cpu] or pdray[gpu], or leave generation out"
            ) from error
        # What a cached prefix saves is little, as prompts differ; without it no prompt changes the digits of another.
        arguments = {"runner": "generate", "max_model_len": options.max_tokens, "enable_prefix_caching": False}
        self._tokenizer = load_tokenizer_files(model_path)
        self._llm = load_llm(model_path, options, arguments)
        self._decoding = decoding

    def answers(self, prompts: list[Any]) -> list[Answer]:
        """See :class:`Generator`."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        decoding = self._decoding
        seeds = (hash64(map(str, prompts), f"{decoding.seed}/sampling") >> 33).tolist()
        params = [
            SamplingParams(temperature=decoding.temperature, max_tokens=decoding.max_tokens, seed=seed)
            for seed in seeds
        ]
        texts = [TokensPrompt(prompt_token_ids=ids) for ids in encoded_prompts(self._tokenizer, prompts, decoding)]
        found = [output.outputs[0] for output in self._llm.generate(texts, params, use_tqdm=False)]
        return [Answer(one.text, len(one.token_ids), one.finish_reason == "length") for one in found]


def encoded_prompts(tokenizer: Any, prompts: list[Any], decoding: Decoding) -> list[list[int]]:
    """Prompts as the policy was trained to continue them, at most ``prompt_tokens`` of each.

    Raises:
        UserError: see :func:`~pdray.tokens.chat_ids`.
    """
    rule = CutRule(decoding.prompt_tokens + decoding.max_tokens, decoding.prompt_tokens)
    found = []
    for ids in prompt_ids(tokenizer, prompts):
        # Some tokenizers end every text with their EOS token, after which nothing is left to say.
        open_ids = ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
        found.append(cut_prompt(open_ids, decoding.max_tokens, rule, tokenizer.bos_token_id))
    return found


def load_generator(model_path: str, options: EngineOptions, decoding: Decoding) -> Generator:
    """A policy in vLLM; tests bring a loader of their own."""
    return VllmGenerator(model_path, options, decoding)
