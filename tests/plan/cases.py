"""Models, corpora and hardware in numbers, without files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.sweep import LLAMA_1B, LLAMA_8B, llama
from pdray.config import RunConfig
from pdray.plan.corpus import CorpusFacts
from pdray.plan.cost import Known, Model
from pdray.plan.flops import Lengths
from pdray.plan.hardware import Hardware, parse_hardware
from pdray.plan.lengths import Texts
from pdray.plan.shape import ModelShape


def llama_8b() -> ModelShape:
    """Llama-3.1-8B."""
    return llama(LLAMA_8B, tied=False)


def llama_1b() -> ModelShape:
    """Llama-3.2-1B, whose head is its embedding."""
    return llama(LLAMA_1B, tied=True)


def config_of(**sections: Any) -> RunConfig:
    """A config whose paths nobody reads."""
    settings: dict[str, Any] = {
        "run": "/nowhere/run",
        "corpus": {"path": "/nowhere/pairs.parquet"},
        "proxies": {"base_model": "/nowhere/base", "kind": "shared", "gpus_per_worker": 1, "dtype": "bfloat16"},
        "scores": {"gpus_per_actor": 1, "max_tokens": 1024},
        "alignment": {
            "policy": "/nowhere/policy",
            "gpus_per_worker": 1,
            "num_workers": 8,
            "pairs_per_step": 64,
            "dtype": "bfloat16",
            "zero_stage": 3,
            "gradient_checkpointing": True,
            "max_tokens": 1024,
        },
    }
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section if isinstance(section, dict) else section
    return RunConfig.model_validate(settings)


def facts_of(pairs: float = 1e6, texts_per_pair: float = 2.0) -> CorpusFacts:
    """A corpus of pairs of four aspects with 2 kB of text each."""
    return CorpusFacts(
        rows=pairs,
        pairs=pairs,
        prompts=pairs,
        texts=texts_per_pair * pairs,
        aspects={aspect: pairs / 4 for aspect in "abcd"},
        rated=0,
        exact=("rows",),
        read=1000,
        input_bytes=2000 * pairs,
        prompt_bytes=400,
        response_bytes=800,
        conversational=False,
        bad={},
        sample=pa.table({"prompt": ["q"], "chosen": ["a"], "rejected": ["b"]}),
        source="a test",
    )


def known_of(config: RunConfig, on: str | Hardware = "8xH100", **changes: Any) -> Known:
    """All that is known of a run: texts of 100 and 300 tokens, 1B proxies, an 8B policy."""
    lengths = Lengths(np.array([400, 400]))
    texts = Texts(lengths, Lengths(np.array([100])), Lengths(np.array([300])), Lengths(np.array([100])), 0.0)
    proxies = {name: Model(folder, llama_1b(), texts) for name, folder in config.proxies.folders.items()}
    known: dict[str, Any] = {
        "config": config,
        "corpus": facts_of(),
        "hardware": parse_hardware(on) if isinstance(on, str) else on,
        "proxies": proxies,
        "policy": Model("/nowhere/policy", llama_8b()),
        "policy_pairs": Lengths(np.array([500, 1000])),
    }
    return Known(**known | changes)
