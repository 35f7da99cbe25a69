"""What ``--dry-run`` prints: the resolved config and the stages, or all that is wrong at once. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import yaml

from pdray.config import ConfigError, RunConfig, load_config
from pdray.errors import UserError, check_together
from pdray.loaded import loaded_models
from pdray.models.fit import check_fit
from pdray.models.torch_builds import check_torch_builds
from pdray.pipeline import check_before, load_stages, up_to
from pdray.rounds import plan_rounds
from pdray.stages import Upstream
from pdray.store import RunStore

# What a stage's check reads while no stage is finished.
READS = {
    "corpus": ("corpus",),
    "proxies": ("proxies", "scores"),
    "scores": ("proxies", "scores"),
    "logprobs": ("logprobs",),
    "crossfit": ("crossfit", "alignment"),
    "alignment": ("alignment",),
    "evaluation": ("evaluation", "alignment"),
}


def dry_run(path: str, overrides: list[str], until: str | None = None) -> str:
    """Check a run as far as that goes without starting it.

    Args:
        path: YAML file.
        overrides: ``key=value`` settings.
        until: name of the last stage; None for all.

    Returns:
        the resolved config as YAML, and a line for each stage.

    Raises:
        UserError: all that is wrong. Where settings are, the files of the sections without such a one are looked at
            all the same; where the run folder is, those of all.
    """
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        raise _with_more(error, error.rest(), set(error.sections)) from None
    try:
        of_round, steps = plan_rounds(config)
        steps = up_to(steps, until)
    except UserError as error:
        raise _with_more(error, config, set(type(config).model_fields)) from None
    check_together([RunStore(config.run).check, lambda: check_before(of_round, steps)])
    states = [f"{step.stage.name:<10} {'done' if step.manifest else 'to run':<7} {step.folder}" for step in steps]
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return "\n".join([resolved, *states])


def _with_more(error: UserError, config: RunConfig, sections: set[str]) -> UserError:
    """The error and what the stages refuse that read some sections alone."""

    def told() -> None:
        raise error

    stages = [stage for stage in load_stages(config) if sections.issuperset(READS.get(stage.name, ()))]
    checks: list[Callable[[], object]] = [
        partial(check, config, Upstream()) for stage in stages if (check := stage.check) is not None
    ]
    checks.append(lambda: check_fit(loaded_models(config, {stage.name for stage in stages})))
    if "run" in sections:
        checks.append(RunStore(config.run).check)
    try:
        check_together([told, *checks, check_torch_builds])
    except UserError as whole:
        return whole
    raise AssertionError("one of them refuses")
