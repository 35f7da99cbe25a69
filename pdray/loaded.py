"""The model folders that the stages of a run load, and whether their weights fit."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from pdray.config import LoraConfig, RunConfig
from pdray.errors import UserError
from pdray.evaluation.baseline import baseline_folder
from pdray.models.fit import Fit
from pdray.models.folder import Kind, read_config


def loaded_models(config: RunConfig, stages: Collection[str]) -> list[Fit]:
    """The model folders that some stages load, by the names of the stages."""
    proxies, alignment, evaluation = config.proxies, config.alignment, config.evaluation
    found: list[Fit] = []
    if "proxies" in stages:
        targets = _targets(proxies.lora)
        kind: Kind = "backbone" if proxies.models is None else "reward"
        found += [Fit(setting, folder, kind, targets) for setting, folder in proxies.folders.items()]
    if "logprobs" in stages and config.logprobs:
        found += [Fit(f"logprobs.{name}", folder, "policy") for name, folder in config.logprobs.folders.items()]
    if {"alignment", "crossfit"}.intersection(stages) and alignment:
        found.append(Fit("alignment.policy", alignment.policy, "policy", _targets(alignment.lora)))
    if "evaluation" in stages and evaluation:
        found += _baseline(config)
        judges = evaluation.reward_models.items()
        found += [Fit(f"evaluation.reward_models.{name}", judge.path, "reward") for name, judge in judges]
    return found


def _baseline(config: RunConfig) -> list[Fit]:
    """The baseline, unless it is the policy before training, or weights that are packed, which vLLM alone loads."""
    setting, alignment = "evaluation.generation.baseline", config.alignment
    generation = config.evaluation and config.evaluation.generation
    if not generation or not alignment:
        return []
    with contextlib.suppress(UserError):  # the evaluation's own check tells it
        folder = baseline_folder(generation, alignment)
        if folder != alignment.policy and "quantization_config" not in read_config(f"{setting} is {folder}", folder):
            return [Fit(setting, folder, "policy")]
    return []


def _targets(lora: LoraConfig | None) -> tuple[str, ...] | str | None:
    if lora is None:
        return None
    return lora.target_modules if isinstance(lora.target_modules, str) else tuple(lora.target_modules)
