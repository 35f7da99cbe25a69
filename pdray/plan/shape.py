"""The sizes of a model that decide what it costs, from its config.json and the headers of its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pdray.models.folder import read_config
from pdray.models.weights import Shapes, read_shapes

# Architectures whose tokens see those before them alone; all others are taken for encoders.
DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
ENCODERS = ("bert", "roberta", "electra", "deberta", "mpnet", "albert", "nomic", "camembert")
EMBEDDINGS = ("embed_tokens", "word_embeddings", "wte", "wpe", "position_embeddings", "embed_positions")
HEADS = ("lm_head", "embed_out")


@dataclass(frozen=True)
class ModelShape:
    """A transformer in numbers.

    Attributes:
        body: parameters but embeddings and the head of a language model.
        active: of those, what a token passes through; fewer than all in a mixture of experts.
        embeddings: parameters of the embeddings; a lookup multiplies nothing.
        head: hidden × vocabulary, what a language model multiplies a token with at its end.
        own_head: parameters of a head of its own; 0 where it is the embedding.
        linear: sum of inputs and outputs of all linear layers of the body, what adapters of rank 1 have.
        layers, hidden, intermediate: of the body.
        kv: width of keys, and of values.
        causal: whether tokens see those before them alone.
    """

    body: int
    active: int
    embeddings: int
    head: int
    own_head: int
    linear: int
    layers: int
    hidden: int
    intermediate: int
    kv: int
    causal: bool

    def parameters(self, with_head: bool) -> int:
        """All of them, as a language model or as a reward model, whose own head is too small to count."""
        return self.body + self.embeddings + (self.own_head if with_head else 0)


def read_model(name: str, folder: str) -> ModelShape:
    """The shape of a model folder; no weight is read.

    Args:
        name: how messages call the folder, for example ``alignment.policy is /models/sft``.
        folder: the model folder.

    Raises:
        UserError: config.json or a header cannot be read.
    """
    return shape_of(read_config(name, folder), read_shapes(name, folder))


def shape_of(config: dict[str, Any], shapes: Shapes) -> ModelShape:
    """The shape that a config.json and the shapes of the weights tell.

    Sizes that the config does not name, under any of the usual names, are guessed from the weights' largest matrices.
    """
    inner = config.get("text_config")
    part = inner if isinstance(inner, dict) else config
    sizes = {tensor: math.prod(shape) for tensor, shape in shapes.items()}
    embeddings = sum(size for tensor, size in sizes.items() if _named(tensor, EMBEDDINGS))
    own_head = sum(size for tensor, size in sizes.items() if _named(tensor, HEADS))
    body = sum(sizes.values()) - embeddings - own_head
    matrices = [shape for tensor, shape in shapes.items() if len(shape) == 2 and not _named(tensor, EMBEDDINGS + HEADS)]
    hidden = _number(part, "hidden_size", "n_embd", "d_model", "dim") or max(
        (min(shape) for shape in matrices), default=1
    )
    intermediate = _number(part, "intermediate_size", "ffn_dim", "n_inner", "hidden_dim") or 4 * hidden
    heads = _number(part, "num_attention_heads", "n_head", "n_heads") or 1
    kv_heads = _number(part, "num_key_value_heads") or heads
    layers = _number(part, "num_hidden_layers", "num_layers", "n_layer", "n_layers") or 1
    vocabulary = _number(part, "vocab_size") or 0
    experts, chosen = _number(part, "num_local_experts", "num_experts"), _number(part, "num_experts_per_tok")
    idle = 0
    if experts and chosen:
        idle = int(sum(size for tensor, size in sizes.items() if ".experts." in tensor) * (1 - chosen / experts))
    return ModelShape(
        body=body,
        active=body - idle,
        embeddings=embeddings,
        head=vocabulary * hidden,
        own_head=own_head,
        linear=sum(map(sum, matrices)),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        kv=kv_heads * (_number(part, "head_dim") or hidden // heads),
        causal=_is_causal(config),
    )


def _is_causal(config: dict[str, Any]) -> bool:
    named = config.get("architectures")
    kinds = [str(item) for item in named] if isinstance(named, list) else []
    kind = str(config.get("model_type", "")).lower()
    return any(item.endswith(DECODERS) for item in kinds) or not any(name in kind for name in ENCODERS)


def _named(tensor: str, names: tuple[str, ...]) -> bool:
    return any(name in tensor for name in names)


def _number(config: dict[str, Any], *names: str) -> int | None:
    found = next((config[name] for name in names if isinstance(config.get(name), int) and config[name] > 0), None)
    return found if found is None else int(found)
