"""What the answers of the evaluation and their comparison will cost. Pure functions of what is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pdray.config import GenerationConfig
from pdray.evaluation.reward_judge import TEXTS_PER_TASK, token_rule
from pdray.plan import flops
from pdray.plan.cost import Cost, Known
from pdray.plan.flops import Lengths
from pdray.plan.memory import CONTEXT, PROCESS, WIDTHS, engine_bytes
from pdray.plan.places import fitting, gpu_problem, impossible
from pdray.runtime.placement import Need, node_cpus

# Tokens are made one after the other, so that weights are read anew for each step of a batch: a guess of how much of
# the speed of reading texts that leaves.
DECODING = 0.1
VLLM_SHARE = 0.8  # of a GPU's memory that an engine of answers takes, where engine_args does not say
POLICIES = 2
PROMPTS_PER_PART = 64


def with_generation(known: Known, cost: Cost) -> Cost:
    """The cost of the evaluation with that of the answers, each of full length; judges behind an API are not counted.

    The baseline counts as another policy of the same size.
    """
    evaluation, model = known.config.evaluation, known.policy
    assert evaluation is not None and model is not None
    generation = evaluation.generation
    if generation is None or cost.seconds is None:
        return cost
    on_gpu, hardware = generation.gpus > 0, known.hardware
    cpus = 1.0 if on_gpu else node_cpus(hardware.resources)
    need = Need("generation task", cpus, generation.gpus, 1, "evaluation.generation.gpus")
    places, sentence = fitting(need, hardware)
    if sentence:
        return impossible(sentence)
    answers = num_answers(known, generation)
    engines = min(places, math.ceil(answers / POLICIES / PROMPTS_PER_PART))
    length = _prompt(known, generation.prompt_tokens) + generation.max_tokens
    operations = flops.forward(model.shape, answers, Lengths(np.array([length])), True) / DECODING
    rate = known.rate("logprobs", model, generation.resolved_dtype, on_gpu)
    size = generation.gpus if on_gpu else cpus
    dtype, tokens = generation.resolved_dtype, generation.prompt_tokens + generation.max_tokens
    weights = model.shape.parameters(True) * WIDTHS[dtype]
    engine = engine_bytes(model.shape, WIDTHS[dtype], tokens, True)
    problems: tuple[str, ...] = ()
    if on_gpu:
        halved = "evaluation.generation.dtype=bfloat16" if dtype == "float32" else None
        share = float(generation.engine_args.get("gpu_memory_utilization", VLLM_SHARE))
        setting = "evaluation.generation.gpus"
        problems = gpu_problem("evaluation.generation", engine, generation.gpus, setting, hardware, halved, share)
    asked = [f"{answers:,} questions to {name}, not counted" for name in evaluation.endpoints]
    return replace(
        cost,
        seconds=cost.seconds + POLICIES * rate.start + operations / (rate.tflops * 1e12 * size * engines),
        gpus=max(cost.gpus, engines * generation.gpus),
        cpus=max(cost.cpus, engines * cpus),
        work="; ".join([cost.work, f"{answers:,} answers of up to {generation.max_tokens:,} tokens", *asked]),
        gpu_bytes=max(cost.gpu_bytes, engine / max(1.0, generation.gpus) + CONTEXT if on_gpu else 0),
        host_bytes=max(cost.host_bytes, math.ceil(engines / hardware.nodes) * (PROCESS + weights)),
        disk_bytes=cost.disk_bytes + answers * 4 * generation.max_tokens,
        problems=cost.problems + problems,
    )


def with_reward_models(known: Known, cost: Cost) -> Cost:
    """The cost of the evaluation with that of its reward models, which read every answer, one model after the other."""
    evaluation, hardware = known.config.evaluation, known.hardware
    assert evaluation is not None
    if evaluation.generation is None or cost.seconds is None:
        return cost
    on_gpu, answers = evaluation.gpus > 0, num_answers(known, evaluation.generation)
    places, _ = fitting(Need("evaluation task", 1, evaluation.gpus, 1, "evaluation.gpus"), hardware)
    tasks = POLICIES * math.ceil(answers / POLICIES / TEXTS_PER_TASK)
    at_once = min(tasks, places)
    for name, judge in evaluation.reward_models.items():
        model, rule = known.judges[name], token_rule(judge)
        rate = known.rate("evaluation", model, judge.dtype, on_gpu)
        length = min(judge.max_tokens, _prompt(known, rule.prompt_tokens) + evaluation.generation.max_tokens)
        operations = flops.forward(model.shape, answers, Lengths(np.array([length])), False)
        weights = model.shape.parameters(False) * WIDTHS[judge.dtype]
        engine = engine_bytes(model.shape, WIDTHS[judge.dtype], judge.max_tokens, False)
        problems: tuple[str, ...] = ()
        if on_gpu:
            what = f"evaluation.reward_models.{name}"
            halved = f"{what}.dtype=bfloat16" if judge.dtype == "float32" else None
            problems = gpu_problem(what, engine, evaluation.gpus, "evaluation.gpus", hardware, halved)
        waves = math.ceil(tasks / places)
        cost = replace(
            cost,
            seconds=(cost.seconds or 0)
            + rate.start
            + waves * operations / tasks / (rate.tflops * 1e12 * (evaluation.gpus or 1)),
            gpus=max(cost.gpus, at_once * evaluation.gpus),
            cpus=max(cost.cpus, at_once),
            work=f"{cost.work}; {answers:,} rewards by {name}",
            gpu_bytes=max(cost.gpu_bytes, engine / max(1.0, evaluation.gpus) + CONTEXT if on_gpu else 0),
            host_bytes=max(cost.host_bytes, math.ceil(at_once / hardware.nodes) * (PROCESS + weights)),
            disk_bytes=cost.disk_bytes + answers * 8,
            problems=cost.problems + problems,
        )
    return cost


def num_answers(known: Known, generation: GenerationConfig) -> int:
    """Of both policies together."""
    most = generation.max_prompts
    return POLICIES * (most if generation.prompts else min(most, known.num_held_out))


def _prompt(known: Known, most: int) -> int:
    """Tokens of a prompt, taken to be as long as a held-out text of the policy is."""
    assert known.held_out is not None
    return min(most, int(known.held_out.mean))
