"""The files and folders that the evaluation section names."""

from __future__ import annotations

import os

from pdray.config.evaluation import EvaluationConfig
from pdray.paths import absolute, is_remote

GENERATION_PATHS = ("prompts", "baseline")


def evaluation_with_absolute_paths(evaluation: EvaluationConfig) -> EvaluationConfig:
    """The section with paths that any working directory reads alike."""
    generation = evaluation.generation
    if generation is not None:
        paths = {name: absolute(path) for name in GENERATION_PATHS if (path := getattr(generation, name))}
        generation = generation.model_copy(update=paths)
    models = {
        name: judge.model_copy(update={"path": absolute(judge.path)})
        for name, judge in evaluation.reward_models.items()
    }
    return evaluation.model_copy(
        update={"pairs": absolute(evaluation.pairs), "generation": generation, "reward_models": models}
    )


def wrong_evaluation_paths(evaluation: EvaluationConfig) -> list[str]:
    """A sentence for each that leads nowhere, but for reward models."""
    generation = evaluation.generation
    files = {"pairs": evaluation.pairs} | (
        {"generation.prompts": generation.prompts} if generation and generation.prompts else {}
    )
    wrong = [
        f"evaluation.{name} is {path}, where no file is; correct the path"
        for name, path in files.items()
        if not os.path.isfile(path)
    ]
    baseline = generation.baseline if generation else None
    if (
        baseline
        and not is_remote(baseline)
        and not any(os.path.isfile(os.path.join(baseline, name)) for name in ("config.json", "run.json"))
    ):
        wrong.append(
            f"evaluation.generation.baseline is {baseline}, which holds neither config.json nor run.json; name a "
            "Hugging Face model folder or the folder of a finished run"
        )
    return wrong
