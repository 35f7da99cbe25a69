"""Bytes of weights, optimizer, activations and caches, on a GPU or in a process. Pure functions.

Activations follow Korthikanti et al. (2022, arXiv 2205.05198), for blocks with a gated feed-forward part and an
attention that keeps no matrix of scores; optimizer states Rajbhandari et al. (2020, arXiv 1910.02054).
"""

from __future__ import annotations

from dataclasses import dataclass

from pdray.plan.hardware import GIB
from pdray.plan.shape import ModelShape

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
ENGINE_TOKENS = 8192  # that an engine computes at once
CONTEXT = 1.5 * GIB  # CUDA, its libraries and communication, on each GPU
PROCESS = 1.5 * GIB  # Python with torch, Transformers and Ray, in each worker
BUCKETS = 1e9  # parameters that DeepSpeed gathers or reduces at a time, at most
SLACK = 1.1  # what an allocator loses between blocks


def engine_bytes(shape: ModelShape, width: int, max_tokens: int, with_head: bool, split: float = 1.0) -> float:
    """Bytes of an engine that reads texts, on each of the GPUs that it is split over.

    Args:
        shape: of the model.
        width: bytes of a number.
        max_tokens: of a text.
        with_head: whether it is a language model.
        split: GPUs.
    """
    weights = shape.parameters(with_head) * width
    work = ENGINE_TOKENS * (6 * shape.hidden + 3 * shape.intermediate) * width
    cache = 2 * shape.layers * shape.kv * max_tokens * width if shape.causal else 0  # of the text at hand
    logits = max_tokens * shape.head / shape.hidden * 4 if with_head else 0
    return (weights + work + cache + logits) / split


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training worker.

    Attributes:
        weights, gradients, optimizer: this worker's part.
        activations: of one pass.
        buckets: what is gathered or reduced at a time.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    buckets: float

    @property
    def total(self) -> float:
        """All of it, with what an allocator loses."""
        return SLACK * (self.weights + self.gradients + self.optimizer + self.activations + self.buckets)


@dataclass(frozen=True)
class TrainingSetup:
    """How a model is trained.

    Attributes:
        width: bytes of a weight.
        workers: that share what ZeRO parts.
        zero_stage: 0 to 3.
        texts: padded texts of one pass on a worker.
        tokens: of each of them.
        checkpointing: whether activations are computed again.
        adapters: rank of adapters, 0 where all weights are trained.
        offload_optimizer, offload_weights: whether they lie in the host's memory.
    """

    width: int
    workers: int
    zero_stage: int
    texts: int
    tokens: float
    checkpointing: bool = False
    adapters: int = 0
    offload_optimizer: bool = False
    offload_weights: bool = False


def training_bytes(shape: ModelShape, setup: TrainingSetup, with_head: bool) -> TrainingMemory:
    """Bytes on each worker; what is offloaded is not on it.

    Args:
        shape: of the model.
        setup: how it is trained.
        with_head: whether it is a language model.
    """
    parameters = shape.parameters(with_head)
    trained = setup.adapters * shape.linear if setup.adapters else parameters
    parted = {stage: setup.workers if setup.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    gathered = min(parameters, BUCKETS) * setup.width if setup.zero_stage else 0.0
    return TrainingMemory(
        weights=0 if setup.offload_weights else parameters * setup.width / parted[3],
        gradients=trained * setup.width / parted[2],
        optimizer=0 if setup.offload_optimizer else optimizer_bytes(trained, setup) / parted[1],
        activations=activation_bytes(shape, setup),
        buckets=gathered if setup.workers > 1 or setup.zero_stage == 3 else 0.0,
    )


def optimizer_bytes(trained: float, setup: TrainingSetup) -> float:
    """Of all workers together: two moments in float32, and a copy of the weights wherever DeepSpeed keeps one."""
    return trained * (8 + (4 if setup.width < 4 or setup.zero_stage else 0))


def activation_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Of one pass over padded texts: all layers, or with checkpointing their inputs and one layer."""
    layer = 8 * shape.hidden + 2 * shape.kv + 4 * shape.intermediate
    kept = shape.layers * shape.hidden + layer if setup.checkpointing else shape.layers * layer
    return setup.texts * setup.tokens * kept * setup.width


def checkpoint_bytes(shape: ModelShape, setup: TrainingSetup, with_head: bool) -> float:
    """Of one checkpoint of all workers: what is trained, and the optimizer's states."""
    parameters = shape.parameters(with_head)
    trained = setup.adapters * shape.linear if setup.adapters else parameters
    return trained * setup.width + optimizer_bytes(trained, setup)
