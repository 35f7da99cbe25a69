"""What the answers of the evaluation will cost. Pure functions of what is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pdray.plan import flops
from pdray.plan.cost import Cost, Known
from pdray.plan.flops import Lengths
from pdray.plan.memory import PROCESS, WIDTHS
from pdray.plan.places import fitting, impossible
from pdray.runtime.placement import Need, node_cpus

# Tokens are made one after the other, so that weights are read anew for each step of a batch: a guess of how much of
# the speed of reading texts that leaves.
DECODING = 0.1
POLICIES = 2
PROMPTS_PER_PART = 64


def with_generation(known: Known, cost: Cost) -> Cost:
    """The cost of the evaluation with that of the answers, each of full length; judges behind an API are not counted.

    The baseline counts as another policy of the same size.
    """
    evaluation, model = known.config.evaluation, known.policy
    assert evaluation is not None and model is not None and known.held_out is not None
    generation = evaluation.generation
    if generation is None or cost.seconds is None:
        return cost
    on_gpu, hardware = generation.gpus > 0, known.hardware
    cpus = 1.0 if on_gpu else node_cpus(hardware.resources)
    need = Need("generation task", cpus, generation.gpus, 1, "evaluation.generation.gpus")
    places, sentence = fitting(need, hardware)
    if sentence:
        return impossible(sentence)
    most = generation.max_prompts
    answers = POLICIES * (most if generation.prompts else min(most, known.num_held_out))
    engines = min(places, math.ceil(answers / POLICIES / PROMPTS_PER_PART))
    length = min(generation.prompt_tokens, int(known.held_out.mean)) + generation.max_tokens
    operations = flops.forward(model.shape, answers, Lengths(np.array([length])), True) / DECODING
    rate = known.rate("logprobs", model, generation.resolved_dtype, on_gpu)
    size = generation.gpus if on_gpu else cpus
    weights = model.shape.parameters(True) * WIDTHS[generation.resolved_dtype]
    asked = [f"{answers:,} questions to {name}, not counted" for name in evaluation.endpoints]
    return replace(
        cost,
        seconds=cost.seconds + POLICIES * rate.start + operations / (rate.tflops * 1e12 * size * engines),
        gpus=max(cost.gpus, engines * generation.gpus),
        cpus=max(cost.cpus, engines * cpus),
        work="; ".join([cost.work, f"{answers:,} answers of up to {generation.max_tokens:,} tokens", *asked]),
        gpu_bytes=max(cost.gpu_bytes, weights / max(1.0, generation.gpus) if on_gpu else 0),
        host_bytes=max(cost.host_bytes, math.ceil(engines / hardware.nodes) * (PROCESS + weights)),
        disk_bytes=cost.disk_bytes + answers * 4 * generation.max_tokens,
    )
