"""What a policy thinks of pairs, as the evaluation stage computes it, and the true reward of what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.method.models import MAX_TOKENS, RULE
from benchmarks.method.world import true_reward


def log_probabilities(policy: Path, pairs: list[dict[str, Any]]) -> np.ndarray:
    """What a policy gives to chosen and rejected response of each pair, (n, 2) float32, nats."""
    import pyarrow as pa

    from pdray.evaluation import stage

    table = pa.table({name: [pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")})
    logps: np.ndarray = stage.log_probabilities(table, [str(policy)], RULE, 0.0)[:, 0]
    return logps


def sample(policy: Path, prompts: list[str], seed: int) -> list[str]:
    """A response of the policy to each prompt, drawn at temperature 1; the prompts have equally many tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    ids = torch.tensor(tokenizer(prompts)["input_ids"])
    set_seed(seed)
    with torch.inference_mode():
        texts = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=MAX_TOKENS - ids.shape[1]
        )
    responses: list[str] = tokenizer.batch_decode(texts[:, ids.shape[1] :], skip_special_tokens=True)
    return responses


def wins(ours: list[str], theirs: list[str]) -> np.ndarray:
    """1 for each response with a higher true reward than its rival, 0.5 for an equal one, else 0, (n,) float64."""
    gaps = np.array([true_reward(one) - true_reward(other) for one, other in zip(ours, theirs, strict=True)])
    return (np.sign(np.round(gaps, 9)) + 1) / 2
