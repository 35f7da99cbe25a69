"""Log-probabilities of responses in vLLM: those of the prompt, in its generating runner."""

from __future__ import annotations

import numpy as np

from pdray.engines.engine import EngineOptions, Rewards
from pdray.engines.response_text import ResponseText
from pdray.engines.vllm_engine import load_llm, require_vllm


class VllmLogps:
    """A language model in vLLM, which generates a token that nobody reads after every text.

    vLLM gives the log-probabilities of a prompt request by request, so their logits, tokens times vocabulary in
    float32, are held for one text at a time; it computes shared prefixes anew, whose logits the cache does not keep.

    Args:
        model_path: Hugging Face folder.
        options: see :class:`~pdray.engines.engine.EngineOptions`; its ``max_tokens`` leaves a position for the token.

    Raises:
        UserError: vLLM is not installed.
    """

    def __init__(self, model_path: str, options: EngineOptions) -> None:
        require_vllm(options)
        from vllm import SamplingParams

        arguments = {"runner": "generate", "max_model_len": options.max_tokens + 1, "enable_prefix_caching": False}
        self._llm = load_llm(model_path, options, arguments)
        # 0 besides that of the token itself; without detokenising, and as numbers instead of an object for each token.
        self._params = SamplingParams(
            max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, flat_logprobs=True
        )

    def score(self, texts: list[ResponseText]) -> Rewards:
        """See :meth:`pdray.engines.transformers_logps.TransformersLogps.score`."""
        from vllm.inputs import TokensPrompt

        logps = np.zeros((len(texts), 1), np.float32)
        rows = [row for row, text in enumerate(texts) if text.num_summed]
        prompts = [TokensPrompt(prompt_token_ids=texts[row].ids) for row in rows]
        for row, output in zip(rows, self._llm.generate(prompts, self._params, use_tqdm=False), strict=True):
            found = output.prompt_logprobs
            assert found.token_ids == texts[row].ids[1:], "one log-probability for each token but the first"
            logps[row] = np.sum(found.logprobs[texts[row].first - 1 :], dtype=np.float64)
        return logps
