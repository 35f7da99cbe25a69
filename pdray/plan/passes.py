"""What it costs to read texts with an engine: scores, log-probabilities, and features of a frozen backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pdray.config import EngineConfig
from pdray.corpus.build import default_texts
from pdray.plan import flops
from pdray.plan.cost import Cost, Known, Model
from pdray.plan.flops import Lengths
from pdray.plan.hardware import GIB
from pdray.plan.memory import CONTEXT, PROCESS, WIDTHS, engine_bytes
from pdray.plan.places import fitting, host_problem, idle_hint, impossible
from pdray.plan.rates import Work
from pdray.runtime.placement import Need, node_cpus

READ_BYTES = 1e9  # of weights a second, from storage
MOST_SPLIT = 8


@dataclass(frozen=True)
class Reading:
    """A model over some texts.

    Attributes:
        model: the model.
        operations: of the whole pass.
        tokens: of the whole pass.
        with_head: whether it is a language model.
    """

    model: Model
    operations: float
    tokens: float
    with_head: bool = False


def reading(model: Model, texts: float, prompts: float, engine: EngineConfig) -> Reading:
    """A reward model over some distinct texts; vLLM computes a shared prompt once where tokens see those before alone.

    Args:
        model: with the lengths of what it reads.
        texts: how many.
        prompts: distinct ones among them.
        engine: the section.
    """
    assert model.texts is not None, "a reward model reads texts"
    whole, shared = model.texts.whole, model.texts.read_prompts
    operations, tokens = flops.forward(model.shape, texts, whole, False), texts * whole.mean
    if model.shape.causal and engine.engine == "vllm":
        again = max(0.0, texts - prompts)
        operations -= flops.forward(model.shape, again, shared, False)
        tokens -= again * shared.mean
    return Reading(model, operations, tokens)


def reading_apart(model: Model, texts: float, prompts: float) -> Reading:
    """An encoder over distinct prompts and responses, each alone."""
    assert model.texts is not None, "an encoder reads texts"
    parts: list[tuple[float, Lengths]] = [(prompts, model.texts.read_prompts), (texts, model.texts.responses)]
    operations = sum(flops.forward(model.shape, count, lengths, False) for count, lengths in parts)
    return Reading(model, operations, sum(count * lengths.mean for count, lengths in parts))


def pass_cost(known: Known, config: EngineConfig, readings: list[Reading], texts: float, work: Work) -> Cost:
    """What a pass costs; all its models lie in each actor.

    Args:
        known: see :class:`~pdray.plan.cost.Known`.
        config: the section of the engine.
        readings: the models, one after the other.
        texts: that are read.
        work: what its rates are kept by.
    """
    hardware, section, gpus = known.hardware, config.section, config.gpus_per_actor
    on_gpu = gpus > 0
    cpus = config.cpus_per_actor or (1.0 if on_gpu else node_cpus(hardware.resources))
    cure = " or ".join(f"{section}.{name}" for name in ("num_actors", "cpus_per_actor", "gpus_per_actor"))
    places, sentence = fitting(Need("scoring actor", cpus, gpus, config.num_actors or 1, cure), hardware)
    if sentence:
        return impossible(sentence)
    of_shard = known.config.corpus.texts_per_shard or default_texts(known.config.scores)
    shards = max(1, math.ceil(texts / of_shard))
    actors = min(config.num_actors or places, shards)
    width = WIDTHS[config.resolved_dtype]
    rates = [known.rate(work, one.model, config.resolved_dtype, on_gpu) for one in readings]
    size = gpus if on_gpu else cpus
    one_actor = sum(one.operations / (rate.tflops * 1e12 * size) for one, rate in zip(readings, rates, strict=True))
    weights = sum(one.model.shape.parameters(one.with_head) * width for one in readings)
    start = max(rate.start for rate in rates) + weights / READ_BYTES
    engines = sum(
        engine_bytes(one.model.shape, width, config.max_tokens, one.with_head, max(1.0, gpus)) for one in readings
    )
    caches = config.cpu_cache_gib * GIB * len(readings) if config.engine == "vllm" and not on_gpu else 0.0
    each = PROCESS + (weights if on_gpu else engines + caches)
    host = each * math.ceil(actors / hardware.nodes)
    problems = host_problem(section, host, hardware, f"set {section}.num_actors to {_fewer(each, known)}")
    if on_gpu:
        problems += _gpu_problem(known, config, readings, engines)
    tokens = sum(one.tokens for one in readings)
    return Cost(
        seconds=start + one_actor / shards * math.ceil(shards / actors),
        start=start,
        gpus=actors * gpus,
        cpus=actors * cpus,
        work=f"{texts:,.0f} texts, {tokens / 1e6:,.1f} M tokens",
        gpu_bytes=engines + CONTEXT if on_gpu else 0,
        host_bytes=host,
        measured=next((rate.measured for rate in rates if rate.measured), None),
        problems=problems,
        hints=idle_hint(section, f"{section}.gpus_per_actor", gpus, hardware),
    )


def _fewer(each: float, known: Known) -> int:
    return max(1, int(known.hardware.host_gib * GIB / each) * known.hardware.nodes)


def _gpu_problem(known: Known, config: EngineConfig, readings: list[Reading], engines: float) -> tuple[str, ...]:
    """That the engines are larger than their part of a GPU, if they are."""
    gpu = known.hardware.gpu
    assert gpu is not None, "actors with GPUs fit on hardware with GPUs"
    room = config.memory_share * gpu.gib * GIB * min(1.0, config.gpus_per_actor)
    if engines + CONTEXT <= room:
        return ()
    cures: list[str] = []
    if config.resolved_dtype == "float32":
        cures.append(f"{config.section}.dtype=bfloat16")
    split = _split_that_fits(config, readings, room)
    if split:
        cures.append(f"{config.section}.gpus_per_actor={split}")
    if len(readings) > 1 and known.config.proxies.kind == "separate":
        cures.append("proxies.kind=shared")
    told = f"set {' or '.join(cures)}" if cures else "take a smaller model, or GPUs with more memory"
    return (
        f"{config.section}: an actor's engines take {(engines + CONTEXT) / GIB:,.0f} GiB of a GPU, of which "
        f"{config.section}.memory_share leaves {room / GIB:,.0f}; {told}",
    )


def _split_that_fits(config: EngineConfig, readings: list[Reading], room: float) -> int | None:
    if config.engine != "vllm":
        return None
    width = WIDTHS[config.resolved_dtype]
    whole = sum(engine_bytes(one.model.shape, width, config.max_tokens, one.with_head) for one in readings)
    room /= min(1.0, config.gpus_per_actor)
    return next((split for split in (1, 2, 4, MOST_SPLIT) if split > config.gpus_per_actor
                 and whole / split + CONTEXT <= room), None)  # fmt: skip
