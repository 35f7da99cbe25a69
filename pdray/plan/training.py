"""What it costs to train: proxies with all weights or adapters, and the alignment."""

from __future__ import annotations

import math
from typing import Any

from pdray.alignment import data
from pdray.alignment.deepspeed import offloads
from pdray.config import AlignmentConfig, ProxiesConfig
from pdray.errors import UserError
from pdray.plan import flops
from pdray.plan.cost import Cost, Known
from pdray.plan.hardware import GIB, GPUS_PER_NODE, NETWORK_GB, Hardware
from pdray.plan.memory import (
    CONTEXT,
    PROCESS,
    WIDTHS,
    TrainingSetup,
    checkpoint_bytes,
    optimizer_bytes,
    training_bytes,
)
from pdray.plan.passes import READ_BYTES
from pdray.plan.places import fitting, host_problem, idle_hint, impossible
from pdray.plan.shape import ModelShape
from pdray.proxies.batches import even_draws
from pdray.proxies.data import trains_baseline
from pdray.runtime.placement import Need

TOKENISED = 600.0  # pairs a second and CPU
WRITTEN_BYTES = 2e9  # of checkpoints a second and node
KEPT_CHECKPOINTS = 3  # two, and the one that is being written
HIDDEN_SENDING = 0.5  # share of what is sent that goes on beside computing
ADAPTERS = {"r": 16, "alpha": 32}


def alignment_cost(known: Known, kept: int) -> Cost:
    """What the alignment costs on so many kept pairs."""
    alignment, hardware, model = known.config.alignment, known.hardware, known.policy
    assert alignment is not None and model is not None and known.policy_pairs is not None
    held_out, trained = data.num_held_out(kept, alignment), data.num_trained(kept, alignment)
    workers, on_gpu = alignment.num_workers, alignment.gpus_per_worker > 0
    cure = "alignment.num_workers, alignment.cpus_per_worker or alignment.gpus_per_worker"
    need = Need("training worker", alignment.cpus_per_worker, alignment.gpus_per_worker, workers, cure)
    _, sentence = fitting(need, hardware)
    try:
        data.check_enough(kept - held_out, alignment)
    except UserError as error:
        sentence = sentence or str(error)
    if sentence:
        return impossible(sentence)
    shape, setup = model.shape, alignment_setup(alignment, known.policy_pairs.longest)
    rate = known.rate("alignment", model, alignment.dtype, on_gpu)
    speed = rate.tflops * 1e12 * (1 if on_gpu else alignment.cpus_per_worker)
    padded = known.policy_pairs.longest_of(alignment.batch_size)
    forward = flops.forward_padded(shape, 2 * alignment.batch_size, padded, True) / speed
    passes = data.accumulation(alignment, workers)
    steps = data.num_steps(kept - held_out, alignment)
    factor = flops.training_passes(alignment.gradient_checkpointing, alignment.lora is not None)
    step = passes * factor * forward + sending_seconds(shape, setup, passes, hardware)
    read = math.ceil((trained + held_out) / (workers * alignment.batch_size)) * forward  # the reference
    judged = math.ceil(held_out / (workers * alignment.batch_size)) * forward
    saved = checkpoint_bytes(shape, setup, True)
    saving = math.ceil(steps / alignment.save_steps) * saved / (WRITTEN_BYTES * math.ceil(workers / GPUS_PER_NODE))
    start = rate.start + shape.parameters(True) * setup.width / READ_BYTES
    tokenising = kept / (TOKENISED * max(1.0, hardware.cpus))
    memory = training_bytes(shape, setup, True)
    per_node = math.ceil(workers / hardware.nodes)
    host = per_node * (PROCESS + (_offloaded(shape, setup) if on_gpu else memory.total))
    problems = host_problem("alignment", host, hardware, "set alignment.zero_stage=3 or fewer alignment.num_workers")
    if on_gpu:
        problems += _alignment_fits(known, alignment, memory.total + CONTEXT)
    tokens = 2 * padded * steps * alignment.pairs_per_step
    return Cost(
        seconds=start + tokenising + read + steps * step + judged + saving,
        start=start,
        gpus=workers * alignment.gpus_per_worker,
        cpus=workers * alignment.cpus_per_worker,
        work=f"{steps:,} steps of {alignment.pairs_per_step} pairs, {tokens / 1e6:,.1f} M tokens",
        gpu_bytes=memory.total + CONTEXT if on_gpu else 0,
        host_bytes=host,
        disk_bytes=KEPT_CHECKPOINTS * saved + shape.parameters(True) * setup.width + kept * 6 * padded,
        measured=rate.measured,
        problems=problems,
        hints=idle_hint("alignment", "alignment.gpus_per_worker", alignment.gpus_per_worker, hardware),
    )


def alignment_setup(alignment: AlignmentConfig, longest: int) -> TrainingSetup:
    """How the policy is trained; memory is that of the longest pair."""
    zero = alignment.deepspeed.get("zero_optimization", {})
    return TrainingSetup(
        width=WIDTHS[alignment.dtype],
        workers=alignment.num_workers,
        zero_stage=alignment.zero_stage,
        texts=2 * alignment.batch_size,
        tokens=longest,
        checkpointing=alignment.gradient_checkpointing,
        adapters=alignment.lora.r if alignment.lora else 0,
        offload_optimizer=offloads(zero, "offload_optimizer"),
        offload_weights=offloads(zero, "offload_param"),
    )


def sending_seconds(shape: ModelShape, setup: TrainingSetup, passes: int, hardware: Hardware) -> float:
    """What a step waits for others; between processes of one machine without GPUs it is taken for nothing."""
    if hardware.gpu is None or setup.workers == 1:
        return 0.0
    trained = setup.adapters * shape.linear if setup.adapters else shape.parameters(True)
    parameters = shape.parameters(True) if setup.zero_stage == 3 else trained
    link = hardware.gpu.link_gb if setup.workers <= GPUS_PER_NODE else min(NETWORK_GB, hardware.gpu.link_gb)
    return (1 - HIDDEN_SENDING) * flops.sent_bytes(parameters, setup.width, setup.zero_stage, passes) / (link * 1e9)


def _offloaded(shape: ModelShape, setup: TrainingSetup) -> float:
    """Bytes in the host's memory of each worker."""
    parameters = shape.parameters(True)
    trained = setup.adapters * shape.linear if setup.adapters else parameters
    optimizer = (optimizer_bytes(trained, setup) + trained * setup.width) if setup.offload_optimizer else 0
    return (optimizer + (parameters * setup.width if setup.offload_weights else 0)) / setup.workers


def _alignment_fits(known: Known, alignment: AlignmentConfig, needed: float) -> tuple[str, ...]:
    gpu = known.hardware.gpu
    assert gpu is not None, "workers with GPUs fit on hardware with GPUs"
    if needed <= gpu.gib * GIB:
        return ()
    cures = alignment_cure(known, alignment)
    told = f"set {' and '.join(cures)}" if cures else "take a smaller policy, more GPUs, or GPUs with more memory"
    return (f"alignment takes {needed / GIB:,.0f} GiB of a GPU, which has {gpu.gib:,.0f}; {told}",)


def alignment_cure(known: Known, alignment: AlignmentConfig) -> list[str]:
    """The first settings, in the order in which they cost quality or time, that together fit on a GPU."""
    gpu, model, pairs = known.hardware.gpu, known.policy, known.policy_pairs
    assert gpu is not None and model is not None and pairs is not None
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    candidates: list[dict[str, Any]] = [
        {"gradient_checkpointing": True},
        {"zero_stage": 3},
        {"dtype": "bfloat16"},
        {"batch_size": 1},
        {"deepspeed": offload},
        {"lora": ADAPTERS},
    ]
    section = alignment.model_dump()

    def fits(changes: list[dict[str, Any]]) -> bool:
        changed = AlignmentConfig.model_validate(
            section | {key: value for one in changes for key, value in one.items()}
        )
        return (
            training_bytes(model.shape, alignment_setup(changed, pairs.longest), True).total + CONTEXT <= gpu.gib * GIB
        )

    useful = [one for one in candidates if any(section[key] != value for key, value in one.items())]
    for count in range(1, len(useful) + 1):
        taken = useful[:count]
        if fits(taken):
            for one in list(taken[:-1]):  # what the later ones made needless
                if fits([other for other in taken if other is not one]):
                    taken.remove(one)
            return [f"alignment.{key}={_as_setting(value)}" for one in taken for key, value in one.items()]
    return []


def _as_setting(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_as_setting(one)}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def used_pairs(known: Known) -> tuple[dict[str, int], dict[str, int]]:
    """Pairs of each aspect that proxies are trained on, and held out; those of the unified model too."""
    proxies = known.config.proxies
    held, train = {}, {}
    for aspect, total in known.corpus.aspects.items():
        held[aspect] = min(int(proxies.held_out * total + 0.5), proxies.max_held_out_pairs)
        train[aspect] = min(int(proxies.share * (total - held[aspect]) + 0.5), proxies.max_pairs_per_aspect)
    if proxies.unified:
        train["unified"], held["unified"] = min(sum(train.values()), proxies.max_pairs_per_aspect), sum(held.values())
    return train, held


def proxies_cost(known: Known) -> Cost:
    """What it costs to train all weights of the proxies, or adapters."""
    proxies, hardware = known.config.proxies, known.hardware
    (model,) = known.proxies.values()
    assert model.texts is not None
    on_gpu, workers = proxies.gpus_per_worker > 0, proxies.num_workers
    cure = "proxies.num_workers, proxies.cpus_per_worker or proxies.gpus_per_worker"
    places, sentence = fitting(
        Need("proxy worker", proxies.cpus_per_worker, proxies.gpus_per_worker, workers, cure), hardware
    )
    if sentence:
        return impossible(sentence)
    rate = known.rate("training", model, proxies.dtype, on_gpu)
    speed = rate.tflops * 1e12 * (proxies.gpus_per_worker if on_gpu else proxies.cpus_per_worker)
    train, held = used_pairs(known)
    members = [list(train.values())] if proxies.kind == "shared" else [[count] for count in train.values()]
    padded = model.texts.whole.longest_of(2 * proxies.batch_size)
    forward = flops.forward_padded(model.shape, 2 * proxies.batch_size, padded, False) / speed
    step = flops.training_passes(on_gpu, proxies.lora is not None) * forward
    judging = flops.forward(model.shape, 2 * sum(held.values()), model.texts.whole, False) / speed
    trainings = [_trainings(proxies, counts) for counts in members]
    steps = [uses * math.ceil(draws * proxies.epochs / (proxies.batch_size * workers)) for uses, draws in trainings]
    at_once = min(max(1, places // workers), len(members))
    setup = TrainingSetup(
        width=4,
        workers=workers,
        zero_stage=0,
        texts=2 * proxies.batch_size,
        tokens=model.texts.whole.longest,
        checkpointing=on_gpu,
        adapters=proxies.lora.r if proxies.lora else 0,
    )
    memory = training_bytes(model.shape, setup, False)
    weights = model.shape.parameters(False) * 4
    start = rate.start + weights / READ_BYTES
    work = sum(count * step + uses * judging for count, (uses, _) in zip(steps, trainings, strict=True))
    host = math.ceil(at_once * workers / hardware.nodes) * (PROCESS + (0 if on_gpu else memory.total))
    return Cost(
        seconds=start + work / at_once,
        start=start,
        gpus=at_once * workers * proxies.gpus_per_worker,
        cpus=at_once * workers * proxies.cpus_per_worker,
        work=f"{len(members)} models, {sum(steps):,} steps of {proxies.batch_size * workers} pairs",
        gpu_bytes=memory.total + CONTEXT if on_gpu else 0,
        host_bytes=host,
        disk_bytes=(len(members) + 1) * weights + at_once * checkpoint_bytes(model.shape, setup, False),
        measured=rate.measured,
        problems=host_problem("proxies", host, hardware, "set proxies.batch_size lower, or proxies.lora={r: 16}")
        + (_proxies_fit(known, memory.total + CONTEXT) if on_gpu else ()),
        hints=idle_hint("proxies", "proxies.gpus_per_worker", proxies.gpus_per_worker, hardware),
    )


def _trainings(proxies: ProxiesConfig, counts: list[int]) -> tuple[int, int]:
    """How often a model is trained, and on how many draws an epoch."""
    baseline = trains_baseline(proxies) and max(counts) <= proxies.max_baseline_pairs
    return (2 if baseline else 1), sum(even_draws(counts))


def _proxies_fit(known: Known, needed: float) -> tuple[str, ...]:
    gpu = known.hardware.gpu
    assert gpu is not None, "workers with GPUs fit on hardware with GPUs"
    if needed <= gpu.gib * GIB:
        return ()
    return (
        f"proxies: training takes {needed / GIB:,.0f} GiB of a GPU, which has {gpu.gib:,.0f}; set a smaller "
        "proxies.batch_size, proxies.lora={r: 16} or proxies.train=head, or take a smaller proxies.base_model",
    )
