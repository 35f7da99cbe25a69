"""The answers of policies to prompts: Ray tasks that each load a policy once and answer one part after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import GenerationConfig
from pdray.engines.engine import EngineOptions
from pdray.engines.vllm_generation import Answer, Decoding, GeneratorLoader, load_generator
from pdray.errors import user_errors
from pdray.evaluation.parts import Parts, key_of, shared_parts
from pdray.identity import model_identity
from pdray.models.place import on_this_node
from pdray.runtime import Need, find_places, living_nodes
from pdray.runtime.placement import node_cpus
from pdray.runtime.tasks import run_tasks
from pdray.shards import deadline
from pdray.stages import StageContext

PROMPTS_PER_PART = 64  # on every machine: what is computed together decides the last digits
PART_SECONDS = 3600.0
TASK_SECONDS = 7 * 24 * 3600.0
VERSION = 1  # raised when the same settings would give other answers

Part = tuple[str, list[Any]]  # key, prompts


@dataclass(frozen=True)
class Work:
    """What a task needs beside its parts; picklable.

    Attributes:
        parts: where answers are kept.
        options: how the engine is loaded.
        decoding: how answers are made.
        load: loads a policy.
        counter: the user's progress, in answers.
    """

    parts: Parts
    options: EngineOptions
    decoding: Decoding
    load: GeneratorLoader
    counter: Any


def generate(
    ctx: StageContext, folders: dict[str, str], prompts: list[Any], load: GeneratorLoader = load_generator
) -> dict[str, list[Answer]]:
    """What each policy answers to each prompt; answers that an earlier evaluation of the run left are taken.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        folders: model folders by name.
        prompts: all strings or all lists of messages.
        load: loads a policy; tests bring their own.

    Raises:
        UserError: the engine does not fit the cluster, or cannot be loaded.
    """
    generation = ctx.config.evaluation.generation  # type: ignore[union-attr]
    assert generation is not None, "the stage asks only where answers are generated"
    decoding = Decoding(generation.max_tokens, generation.prompt_tokens, generation.temperature, ctx.config.seed)
    settings = asdict(decoding) | {"dtype": generation.resolved_dtype, "engine_args": generation.engine_args}
    store = shared_parts(ctx.run, "answers")
    chunks = [prompts[start : start + PROMPTS_PER_PART] for start in range(0, len(prompts), PROMPTS_PER_PART)]
    planned: dict[str, list[Part]] = {}
    for name, folder in folders.items():
        model = model_identity(folder)
        planned[name] = [(key_of(VERSION, model, settings, chunk), chunk) for chunk in chunks]
    missing: dict[str, Part] = {}
    folder_of: dict[str, str] = {}
    for name, parts in planned.items():
        for part in parts:
            if part[0] not in missing and store.read(part[0]) is None:
                missing[part[0]], folder_of[part[0]] = part, folders[name]
    if missing:
        _answer(ctx, generation, decoding, store, [(folder_of[key], part) for key, part in missing.items()], load)
    return {name: [one for key, _ in parts for one in _read(store, key)] for name, parts in planned.items()}


def _read(store: Parts, key: str) -> list[Answer]:
    table = store.read(key)
    assert table is not None, "every part was written"
    return [Answer(**row) for row in table.select(["text", "num_tokens", "cut"]).to_pylist()]


def _answer(
    ctx: StageContext,
    generation: GenerationConfig,
    decoding: Decoding,
    store: Parts,
    missing: list[tuple[str, Part]],
    load: GeneratorLoader,
) -> None:
    cpus = 1.0 if generation.gpus else node_cpus(living_nodes())
    need = Need("generation task", cpus, generation.gpus, 1, "evaluation.generation.gpus")
    places = max(1, find_places(need, ctx.progress.note))
    options = EngineOptions(
        engine="vllm",
        dtype=generation.resolved_dtype,
        max_tokens=decoding.prompt_tokens + decoding.max_tokens,
        threads=max(1, int(cpus)),
        num_gpus=generation.gpus,
        engine_args=generation.engine_args,
        section="evaluation.generation",
    )
    total = sum(len(prompts) for _, (_, prompts) in missing)
    with ctx.progress.counting("answers", total=total, unit="answers") as counter, user_errors():
        work = Work(store, options, decoding, load, counter)
        jobs = [
            (folder, group, work)
            for folder in dict.fromkeys(folder for folder, _ in missing)
            for group in _groups([part for other, part in missing if other == folder], places)
        ]
        for _ in run_tasks(answer_parts, jobs, TASK_SECONDS, generation.gpus, num_cpus=cpus, alone=True):
            pass


def _groups(parts: list[Part], places: int) -> list[list[Part]]:
    """The parts of one policy, as many groups as engines fit: loading one takes longer than many answers."""
    return [
        [parts[place] for place in group] for group in np.array_split(np.arange(len(parts)), min(places, len(parts)))
    ]


def answer_parts(folder: str, parts: Sequence[Part], work: Work) -> None:
    """Write the parts that are not there yet; a task that is run again goes on where it was lost."""
    engine = None
    for key, prompts in parts:
        if work.parts.read(key) is None:
            with deadline(PART_SECONDS), work.counter.working(f"{len(prompts)} prompts"):
                engine = engine or work.load(on_this_node(folder), work.options, work.decoding)
                work.parts.write(key, _table(prompts, engine.answers(prompts)))
        work.counter.add(len(prompts))


def _table(prompts: list[Any], answers: list[Answer]) -> pa.Table:
    return pa.table(
        {
            "prompt": prompts,
            "text": [one.text for one in answers],
            "num_tokens": pa.array([one.num_tokens for one in answers], pa.int32()),
            "cut": [one.cut for one in answers],
        }
    )
