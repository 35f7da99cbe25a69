"""Models, corpora and hardware in numbers, without files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import RunConfig
from pdray.models.weights import Shapes
from pdray.plan.corpus import CorpusFacts
from pdray.plan.cost import Known, Model
from pdray.plan.flops import Lengths
from pdray.plan.hardware import Hardware, parse_hardware
from pdray.plan.lengths import Texts
from pdray.plan.shape import ModelShape, shape_of

LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
LLAMA_1B = LLAMA_8B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}


def llama_shapes(config: dict[str, Any], tied: bool = False) -> Shapes:
    """The tensors of a Llama."""
    hidden, wide, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        root = f"model.layers.{layer}"
        for name, out in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            shapes[f"{root}.self_attn.{name}_proj.weight"] = (out, hidden)
        for name, shape in (("gate", (wide, hidden)), ("up", (wide, hidden)), ("down", (hidden, wide))):
            shapes[f"{root}.mlp.{name}_proj.weight"] = shape
        shapes[f"{root}.input_layernorm.weight"] = shapes[f"{root}.post_attention_layernorm.weight"] = (hidden,)
    return shapes if tied else shapes | {"lm_head.weight": (vocabulary, hidden)}


def llama_8b() -> ModelShape:
    """Llama-3.1-8B."""
    return shape_of(LLAMA_8B, llama_shapes(LLAMA_8B))


def llama_1b() -> ModelShape:
    """Llama-3.2-1B, whose head is its embedding."""
    return shape_of(LLAMA_1B, llama_shapes(LLAMA_1B, tied=True))


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
