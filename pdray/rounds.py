"""Repeated selection: train, read the corpus with what was trained, select again (docs/method.md).

    <run>/corpus-…, proxies-…, scores-…   once
    <run>/shared/                         once: among it the log-probabilities of the untouched policy
    <run>/rounds/01/                      a whole run: logprobs-…, selection-…, alignment-…, run.json, report.html
    <run>/rounds/02/                      the same with logprobs.policy = the policy of round 1

What the rounds have in common they reach by relative links, so a run folder can be moved, and each round is a run for
every command. Every round trains from ``alignment.policy`` anew: rounds differ in the pairs alone.
"""

from __future__ import annotations

from pathlib import Path

from pdray.config import RunConfig
from pdray.console import Console
from pdray.errors import UserError
from pdray.pipeline import Step, check_before, plan, run_pipeline, up_to
from pdray.schema import AlignmentOutput
from pdray.selection.check import find_strategy
from pdray.store import ONCE, ROUNDS, SHARED, RunStore
from pdray.tracing import traced


def round_config(config: RunConfig, number: int, policy: str | None) -> RunConfig:
    """The run that a round is.

    Args:
        config: with ``rounds``.
        number: of the round, from 1.
        policy: folder of the policy that the round before trained; None in the first, which reads with the config's.
    """
    logprobs = config.logprobs
    if policy is not None:
        assert logprobs is not None, "checked with the config"
        logprobs = logprobs.model_copy(update={"policy": policy})
    return config.model_copy(update={"run": f"{config.run}/{ROUNDS}/{number:02}", "rounds": 1, "logprobs": logprobs})


def plan_rounds(config: RunConfig) -> tuple[RunConfig, list[Step]]:
    """What is done once and the first round that is not trained, or the last; starts nothing.

    Returns:
        the config of that round, and all its steps; without rounds, those of the run.

    Raises:
        UserError: as :func:`pdray.pipeline.plan`; the strategy does not read the policy.
    """
    if config.rounds == 1:
        return config, plan(config)
    check_strategy(config)
    once, policy = up_to(plan(config), ONCE[-1]), None
    for number in range(1, config.rounds + 1):
        one = round_config(config, number, policy)
        steps = plan(one)
        policy = trained_policy(one, steps)
        if policy is None:
            break
    return one, [*once, *(step for step in steps if step.stage.name not in ONCE)]


def rounds_left(config: RunConfig, one: RunConfig) -> int:
    """Rounds of a run that are not over.

    Args:
        config: the run.
        one: its current round, of :func:`plan_rounds`.
    """
    return config.rounds - int(one.run.rpartition("/")[2]) + 1 if config.rounds > 1 else 1


def check_strategy(config: RunConfig) -> None:
    """Refuse a strategy that selects the same pairs in every round.

    Raises:
        UserError: with the cure.
    """
    name = config.selection.strategy
    if "policy" not in find_strategy(name).logps:
        raise UserError(
            f"rounds is {config.rounds}, but selection.strategy {name} does not read the policy and selects the same "
            "pairs in every round; set it to pd_potential or another that reads logprobs.policy, or rounds to 1"
        )


def trained_policy(config: RunConfig, steps: list[Step]) -> str | None:
    """Folder of the policy of a round; None while it is not trained."""
    outputs = [step.output for step in steps if isinstance(step.output, AlignmentOutput)]
    return f"{config.run}/{outputs[0].policy}" if outputs else None


def run(config: RunConfig, until: str | None = None, wait: float = 0.0) -> list[Step]:
    """Run what is not done yet, all rounds of it where the config has several.

    Args:
        config: the run.
        until: name of the last stage, of the last round; None runs all.
        wait: seconds in which another process may let go of the run folder.

    Returns:
        every step of the run, of several rounds those of the last.

    Raises:
        UserError, RunFolderBusyError: as :func:`~pdray.pipeline.run_pipeline`.
    """
    with traced(Console().say, "run", run=config.run, rounds=config.rounds):
        return _run(config, until, wait)


def _run(config: RunConfig, until: str | None, wait: float) -> list[Step]:
    if config.rounds == 1:
        return run_pipeline(config, until, wait)
    check_before(*plan_rounds(config))
    steps = run_pipeline(config, until if until in ONCE else ONCE[-1], wait)
    if until in ONCE:
        return steps
    once, policy = [step.folder.name for step in up_to(plan(config), ONCE[-1])], None
    for number in range(1, config.rounds + 1):
        one = round_config(config, number, policy)
        Console().say(f"round      {number} of {config.rounds}: {one.run}")
        link_common(Path(config.run), Path(one.run), once)
        steps = run_pipeline(one, until if number == config.rounds else None, wait)
        policy = trained_policy(one, steps)
    return steps


def link_common(run: Path, folder: Path, once: list[str]) -> None:
    """Give a round the folders that are made once, by links that hold when the run is moved.

    Args:
        run: the run folder.
        folder: of the round, two levels below it.
        once: names of the stage folders.

    Raises:
        UserError: a file stands in the place of a folder.
    """
    RunStore(run).make()
    (run / SHARED).mkdir(exist_ok=True)
    RunStore(folder).make()
    for name in (SHARED, *once):
        link = folder / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(Path("..") / ".." / name)
