"""The stages of a run and what each will cost. Pure functions of what is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from pdray.plan import flops
from pdray.plan.cost import Cost, Known
from pdray.plan.distinct import expected_met
from pdray.plan.generation import with_generation, with_reward_models
from pdray.plan.hardware import CORE_TFLOPS
from pdray.plan.memory import CONTEXT, PROCESS, engine_bytes
from pdray.plan.passes import Reading, pass_cost, reading, reading_apart
from pdray.plan.places import fitting, gpu_problem, impossible
from pdray.plan.training import alignment_cost, proxies_cost, used_pairs
from pdray.runtime.placement import Need
from pdray.selection.check import find_strategy
from pdray.selection.divergence import num_kept

# Seconds of a CPU: checking, hashing and writing a row, which is a guess; selecting a pair, its text among them, and
# ranking one, from the selection of a million pairs on two cores in docs/benchmarks.md.
A_ROW, A_PAIR, A_RANK = 250e-6, 15e-6, 100e-6
START = 4.0  # of a stage whose workers load no model
# Operations of fitting a head for each square root of a pair: 0.3 s a root on cores of 55 GFLOP/s, where SummEval takes
# 0.4; the search ends sooner where features tell less.
A_HEAD_ROOT = 1.6e10
PACKED = 0.6  # bytes of text on disk, for each byte of it
PAIRS_PER_TASK = 512  # of the evaluation


def stage_costs(known: Known) -> dict[str, Cost]:
    """The cost of every stage that the run has, by name, in their order."""
    config = known.config
    costs = {"corpus": corpus(known), "proxies": proxies(known), "scores": scores(known)}
    if config.logprobs is not None:
        costs["logprobs"] = logprobs(known)
    if config.crossfit is not None:
        costs["crossfit"] = crossfit(known)
    costs["selection"] = selection(known)
    if config.alignment is not None:
        costs["alignment"] = alignment_cost(known, kept_pairs(known))
    if config.evaluation is not None:
        costs["evaluation"] = evaluation(known)
    return costs


def kept_pairs(known: Known) -> int:
    """⌊λN⌋, or all of them under a strategy that keeps all."""
    selection = known.config.selection
    everything = find_strategy(selection.strategy).keeps_all
    return num_kept(1.0 if everything else selection.budget, int(known.corpus.pairs))


def corpus(known: Known) -> Cost:
    """Reading, checking, shuffling by prompt, writing; Ray holds all checked rows at once."""
    facts, hardware = known.corpus, known.hardware
    stored = 2 * facts.pairs * facts.pair_bytes  # the blocks, and what the shuffle makes of them
    return Cost(
        seconds=START + facts.rows * A_ROW / hardware.cpus,
        start=START,
        cpus=hardware.cpus,
        work=f"{facts.rows:,.0f} rows",
        host_bytes=PROCESS + min(stored / hardware.nodes, hardware.store_bytes),
        disk_bytes=PACKED * facts.text_bytes + facts.pairs * (60 + 16 * facts.rated),
        store_bytes=stored,
        problems=_too_few(facts.aspects),
    )


def _too_few(aspects: Mapping[str, float]) -> tuple[str, ...]:
    if len(aspects) > 1:
        return ()
    return (
        f"corpus: the rows that were read are all labelled by {', '.join(aspects) or 'no aspect'}; preference "
        "divergence compares aspects, so give pairs labelled by at least two",
    )


def proxies(known: Known) -> Cost:
    """Nothing for ready ones, a training, or features and heads."""
    if known.config.proxies.models is not None:
        return Cost(0, 0, work="ready models")
    return heads(known) if known.config.proxies.train == "head" else proxies_cost(known)


def used_texts(known: Known) -> tuple[float, float]:
    """Distinct texts and prompts of the pairs that proxies are trained on and held out from."""
    facts, (train, held) = known.corpus, used_pairs(known)
    used = sum(count for part in (train, held) for aspect, count in part.items() if aspect != "unified")
    share = min(1.0, used / max(1.0, facts.pairs))
    return expected_met(facts.texts, 2 * facts.pairs, share), expected_met(facts.prompts, facts.pairs, share)


def heads(known: Known) -> Cost:
    """One pass over the texts of used pairs, in one or both ways of reading, and a fit for each head."""
    config, (model,) = known.config, known.proxies.values()
    texts, prompts = used_texts(known)
    both = config.proxies.reading == "auto"
    readings: list[Reading] = []
    if both or config.proxies.reading == "together":
        readings.append(reading(model, texts, prompts, config.scores))
    if both or config.proxies.reading == "apart":
        readings.append(reading_apart(model, texts, prompts))
    cost = pass_cost(known, config.scores, readings, texts, "scoring")
    if cost.seconds is None:
        return cost
    train, _ = used_pairs(known)
    # Heads are fitted on CPUs, and how fast these are the measured pass of a backbone tells.
    core = CORE_TFLOPS
    if config.scores.gpus_per_actor == 0:
        core = known.rate("scoring", model, config.scores.resolved_dtype, False).tflops
    fits = [A_HEAD_ROOT * math.sqrt(count) / (core * 1e12) for count in train.values()] * len(readings)
    fitting_seconds = max(max(fits), sum(fits) / known.hardware.cpus)
    features = texts * 4 * model.shape.hidden * sum(1 if one is readings[0] else 2 for one in readings)
    return Cost(
        **{**vars(cost), "seconds": cost.seconds + fitting_seconds, "disk_bytes": features}
        | {"work": f"{cost.work}, {len(fits)} heads"}
    )


def scores(known: Known) -> Cost:
    """A pass over every distinct text; with heads, over those alone that have no features yet."""
    config, facts = known.config, known.corpus
    texts, prompts = facts.texts, facts.prompts
    disk = facts.texts * (6 + 4 * known.num_aspects)
    trained = config.proxies.models is None
    if trained and config.proxies.train == "head":
        used, used_prompts = used_texts(known)
        texts, prompts = max(0.0, texts - used), max(0.0, prompts - used_prompts)
        if texts < 1:
            return Cost(START, START, work="all texts have features", cpus=1, disk_bytes=disk, host_bytes=PROCESS)
    copies = known.num_aspects + config.proxies.unified if config.proxies.kind == "separate" else 1
    separate = trained and config.proxies.train == "all"
    readings = [
        reading(model, texts, prompts, config.scores)
        for model in known.proxies.values()
        for _ in range(copies if separate else 1)
    ]
    return Cost(**vars(pass_cost(known, config.scores, readings, texts, "scoring")) | {"disk_bytes": disk})


def logprobs(known: Known) -> Cost:
    """A pass over every distinct text with the policy, and the reference where there is one."""
    section, lengths, texts = known.config.logprobs, known.logprob_texts, known.corpus.texts
    assert section is not None and lengths is not None
    readings = [
        Reading(model, flops.forward(model.shape, texts, lengths, True), texts * lengths.mean, with_head=True)
        for model in known.logprobs.values()
    ]
    cost = pass_cost(known, section, readings, texts, "logprobs")
    return Cost(**vars(cost) | {"disk_bytes": texts * (6 + 4 * len(readings))})


def crossfit(known: Known) -> Cost:
    """Folds × repeats trainings; the untouched policy reads every text, and in every repeat a trained one does."""
    config, model, facts = known.config, known.policy, known.corpus
    section, alignment = config.crossfit, config.alignment
    assert section is not None and alignment is not None and model is not None
    assert known.crossfit_pairs is not None and known.crossfit_texts is not None
    of_a_fold = config.model_copy(update={"alignment": section.training(alignment)})
    others = int(facts.pairs) * (section.folds - 1) // section.folds
    training = alignment_cost(replace(known, policy_pairs=known.crossfit_pairs, config=of_a_fold), others)
    lengths = known.crossfit_texts
    operations = flops.forward(model.shape, facts.texts, lengths, True)
    reading_all = Reading(model, operations, facts.texts * lengths.mean, with_head=True)
    read = pass_cost(known, section, [reading_all], facts.texts, "logprobs")
    if training.seconds is None or read.seconds is None:
        return training if training.seconds is None else read
    count = section.folds * section.repeats
    passes = (1 + section.repeats) * (read.seconds - read.start) + (1 + count) * read.start
    return replace(
        training,
        seconds=count * training.seconds + passes,
        gpus=max(training.gpus, read.gpus),
        cpus=max(training.cpus, read.cpus),
        work=f"{count} × {training.work}; {1 + section.repeats} × {read.work}",
        gpu_bytes=max(training.gpu_bytes, read.gpu_bytes),
        host_bytes=max(training.host_bytes, read.host_bytes),
        disk_bytes=training.disk_bytes + facts.texts * 8 * (1 + section.repeats) + facts.pairs * 44,
        problems=training.problems + read.problems,
        hints=training.hints + read.hints,
    )


def selection(known: Known) -> Cost:
    """Radix passes over narrow columns, the texts of the kept pairs, ranks by a sort."""
    facts, hardware, settings = known.corpus, known.hardware, known.config.selection
    kept = kept_pairs(known)
    ranked = {"none": 0.0, "kept": float(kept), "all": facts.pairs}[settings.rank]
    return Cost(
        seconds=START + (facts.pairs * A_PAIR + ranked * A_RANK) / hardware.cpus,
        start=START,
        cpus=hardware.cpus,
        work=f"{kept:,} of {facts.pairs:,.0f} pairs",
        host_bytes=2 * PROCESS + min(ranked * 100 / hardware.nodes, hardware.store_bytes),
        disk_bytes=facts.pairs * (44 + 4 * known.num_aspects) + PACKED * kept * facts.pair_bytes + ranked * 48,
        store_bytes=ranked * 100,
    )


def evaluation(known: Known) -> Cost:
    """Policy and reference over both responses of the held-out pairs, in float32, 512 pairs a task; and the answers."""
    section, model, lengths, alignment = known.config.evaluation, known.policy, known.held_out, known.config.alignment
    assert section is not None and model is not None and lengths is not None and alignment is not None
    on_gpu, hardware = section.gpus > 0, known.hardware
    places, sentence = fitting(Need("evaluation task", 1, section.gpus, 1, "evaluation.gpus"), hardware)
    if sentence:
        return impossible(sentence)
    rate = known.rate("evaluation", model, "float32", on_gpu)
    tasks = max(1, math.ceil(known.num_held_out / PAIRS_PER_TASK))
    operations = flops.forward(model.shape, 4 * known.num_held_out, lengths, True)
    waves = math.ceil(tasks / places)
    seconds = waves * operations / tasks / (rate.tflops * 1e12 * (section.gpus or 1))
    at_once = min(tasks, places)
    engine = engine_bytes(model.shape, 4, alignment.max_tokens, True)
    cost = Cost(
        seconds=rate.start + seconds,
        start=rate.start,
        gpus=at_once * section.gpus,
        cpus=at_once,
        work=f"{known.num_held_out:,} held-out pairs",
        gpu_bytes=engine / max(1.0, section.gpus) + CONTEXT if on_gpu else 0,
        host_bytes=math.ceil(at_once / hardware.nodes) * (PROCESS + model.shape.parameters(True) * 4),
        disk_bytes=known.num_held_out * 40,
        measured=rate.measured,
        problems=gpu_problem("evaluation", engine, section.gpus, "evaluation.gpus", hardware) if on_gpu else (),
    )
    return with_reward_models(known, with_generation(known, cost))
