"""The stages in order: skip what is done, run what is not, refuse what does not match."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from pdray import metrics, tracing
from pdray.config import RunConfig
from pdray.console import Console, logs_to_file
from pdray.errors import UserError, check_together, reason
from pdray.loaded import loaded_models
from pdray.models.fit import check_fit
from pdray.models.folder import is_whole
from pdray.models.torch_builds import check_torch_builds
from pdray.report import PAGE
from pdray.schema import Output, check_types, model_folders, to_json
from pdray.shards import ShardedFolder
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath, copy_folder
from pdray.store import MANIFEST, DamagedError, RunStore, check_folder, fingerprint, package_versions, read_spent

MOST_PAIRS_ON_A_PAGE = 3_000_000  # about half a minute on one core
ROOMS = ("corpus", "proxies", "scoring", "logprobs", "crossfit", "selection", "alignment", "evaluation")


def all_stages() -> list[Stage]:
    """All stages in their order."""
    return [import_module(f"pdray.{room}.stage").STAGE for room in ROOMS]


def load_stages(config: RunConfig) -> list[Stage]:
    """The stages of a run in their order; optional ones only where they are configured."""
    return [stage for stage in all_stages() if not stage.optional or getattr(config, stage.name) is not None]


@dataclass(frozen=True)
class Step:
    """A stage of one run.

    Attributes:
        stage: the stage.
        fingerprint: sha256 over its settings, its version and its upstream fingerprints.
        settings: what it was computed from.
        folder: where it writes.
        reads: names of the stages that it reads in this run.
        manifest: None while it is not finished, or no longer whole.
        output: what it handed over, None like the manifest.
        damage: what is no longer whole of a stage that was finished.
        lost: whether that is a model.
    """

    stage: Stage
    fingerprint: str
    settings: dict[str, Any]
    folder: StoragePath
    reads: tuple[str, ...]
    manifest: dict[str, Any] | None = None
    output: Output | None = None
    damage: str | None = None
    lost: bool = False


def plan(config: RunConfig) -> list[Step]:
    """What a run consists of and which of it is already done. Starts nothing.

    Raises:
        UserError: an input or the run folder cannot be read, or a stage folder was made by another configuration.
    """
    store = RunStore(config.run)
    steps: list[Step] = []
    prints: dict[str, str] = {}
    for stage in load_stages(config):
        settings = stage.settings(config)
        reads = stage.reads(config)
        upstream = {name: prints[name] for name in reads}
        prints[stage.name] = fingerprint([stage.name, stage.version, settings, upstream])
        folder = store.stage_folder(stage.name, prints[stage.name])
        try:
            step = _found(store, Step(stage, prints[stage.name], settings, folder, reads))
            while stage.anew and step.lost:
                prints[stage.name] = fingerprint([step.fingerprint, "anew"])
                folder = store.stage_folder(stage.name, prints[stage.name])
                other = _found(store, Step(stage, prints[stage.name], settings, folder, reads))
                # Until the other is finished the user is told what it is made for.
                step = other if other.manifest or other.damage else replace(other, damage=step.damage)
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({error}); mend that, or set run to another folder") from None
        steps.append(step)
    return steps


def _found(store: RunStore, step: Step) -> Step:
    """The step with its manifest, where everything that the manifest speaks of is there."""
    name = step.folder.name
    try:
        manifest = store.complete(step.folder, step.fingerprint)
        check_folder(step.folder)
        if manifest is None:
            return step
        output = step.stage.load(manifest["output"])
        check_types(output)
    except DamagedError as error:
        return replace(step, damage=str(error))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError):
        return replace(step, damage=f"{name}/{MANIFEST} does not say what the stage hands over")
    num_shards = getattr(output, "num_shards", 0)
    missing = num_shards - len(ShardedFolder(step.folder, step.fingerprint, num_shards).done())
    if missing:
        return replace(step, damage=f"{missing} of {num_shards} shards in {name} are missing or damaged")
    for folder in model_folders(output):
        if not is_whole(store.root / folder):
            return replace(step, damage=f"the model folder {folder} is missing or damaged", lost=True)
    if step.stage.damage and (damage := step.stage.damage(step.folder, manifest)):
        return replace(step, damage=damage)
    return replace(step, manifest=manifest, output=output)


def up_to(steps: list[Step], until: str | None) -> list[Step]:
    """The steps up to and including a stage; all of them for None.

    Raises:
        UserError: the run has no such stage, because it has no section of that name.
    """
    names = [step.stage.name for step in steps]
    if until is None:
        return steps
    if until not in names:
        raise UserError(f"the configuration has no {until} section; add one (see pdray init) or stop at another stage")
    return steps[: names.index(until) + 1]


def run_pipeline(config: RunConfig, until: str | None = None, wait: float = 0.0) -> list[Step]:
    """Run what is not done yet, up to and including a stage.

    Args:
        config: the run.
        until: name of the last stage; None runs all.
        wait: seconds in which another process may let go of the run folder.

    Returns:
        every step of the run, finished ones with their manifest.

    Raises:
        UserError: something that the user can mend; :mod:`pdray.cli` prints it.
        RunFolderBusyError: another process holds the run folder.
    """
    store = RunStore(config.run)
    with store.lock(wait, Console().say):
        whole = plan(config)
        steps = up_to(whole, until)
        check_before(config, steps)
        store.write_state(_state(config, whole))
        waiting = [step.stage.name for step in steps if step.manifest is None]
        if not waiting:
            console = Console()
            console.say(f"nothing to do: {', '.join(step.stage.name for step in steps)} are complete in {config.run}")
            if not _page_shows(store, steps):  # another budget, which came after them, has written it
                _write_page(config, steps, console)
            return whole
        with _logs(store) as console:
            try:
                _run_steps(config, steps, console)
            finally:
                console.clear()
            _write_page(config, steps, console)
    return steps + whole[len(steps) :]


def _page_shows(store: RunStore, steps: list[Step]) -> bool:
    """Whether the run's page is of these stages: it has their fingerprints."""
    try:
        page = (store.root / PAGE).read_bytes()
    except OSError:
        return False
    return all(step.manifest["fingerprint"].encode() in page for step in steps if step.manifest)


def _write_page(config: RunConfig, steps: list[Step], console: Console) -> None:
    """The page about a run that has a selection. The run is whole without it, so what hinders it is only said."""
    outputs = {step.stage.name: step.output for step in steps}
    if outputs.get("selection") is None or outputs.get("corpus") is None:
        return
    if (pairs := outputs["corpus"].pairs) > MOST_PAIRS_ON_A_PAGE:  # type: ignore[union-attr]
        console.say(f"report     not written by itself for {pairs:,} pairs; pdray report {config.run} writes it")
        return
    from pdray.report.page import write_report

    try:
        console.say(f"report     {write_report([config.run])}")
    except UserError as error:
        console.say(f"report     none: {error}")
    except Exception as error:
        console.say(f"report     none: {reason(error)}")


@contextlib.contextmanager
def _logs(store: RunStore) -> Iterator[Console]:
    """The console of a run whose libraries' output goes to its ``logs``; for object storage when the run ends."""
    if store.root.is_local:
        with logs_to_file(store.root.local / "logs") as console:
            yield console
        return
    with tempfile.TemporaryDirectory(prefix="pdray-logs-") as scratch:
        try:
            with logs_to_file(Path(scratch)) as console:
                yield console
        finally:
            copy_folder(Path(scratch), store.root / "logs")


def check_all(config: RunConfig, steps: list[Step]) -> None:
    """Let every stage refuse what the config and the finished stages show to be impossible.

    Raises:
        UserError: from the stages' checks, everything that is wrong at once, a sentence a line.
    """
    checks = [step.stage.check for step in steps if step.manifest is None]
    check_together(partial(check, config, upstream_of(steps)) for check in checks if check is not None)


def check_before(config: RunConfig, steps: list[Step]) -> None:
    """As :func:`check_all`, and where anything is left to do, look at what loads models and whether these fit.

    Raises:
        UserError: also of :func:`~pdray.models.fit.check_fit` and
            :func:`~pdray.models.torch_builds.check_torch_builds`, everything that is wrong at once.
    """
    to_run = {step.stage.name for step in steps if step.manifest is None}
    checks: list[Callable[[], object]] = [lambda: check_all(config, steps)]
    if to_run:
        checks += [lambda: check_fit(loaded_models(config, to_run)), check_torch_builds]
    check_together(checks)


def upstream_of(steps: list[Step]) -> Upstream:
    """What the finished stages hand over."""
    done = [step for step in steps if step.output is not None]
    return Upstream(
        folders={step.stage.name: step.folder for step in done},
        fingerprints={step.stage.name: step.fingerprint for step in done},
        **{step.stage.name: step.output for step in done if step.stage.name != "evaluation"},  # type: ignore[arg-type]
    )


def _run_steps(config: RunConfig, steps: list[Step], console: Console) -> None:
    from pdray.probe import check_shared
    from pdray.runtime import check_labels, head_watched, ray_session

    for step in steps:
        if step.manifest is not None:
            console.say(f"{step.stage.name:<10} done before, reused")
        elif step.damage is not None:
            console.say(f"{step.stage.name:<10} {step.damage}; what is missing is made again")
    states = {step.stage.name: "to run" if step.manifest is None else "done" for step in steps}
    with console.showing(states), ray_session(config.cluster), head_watched(console.say):
        check_labels(console.say)
        check_shared(RunStore(config.run).root, console.say)
        for index, step in enumerate(steps):
            if step.manifest is None:
                console.stage(step.stage.name, "running")
                steps[index] = _run_step(config, step, steps[:index], console)
                console.stage(step.stage.name, "done")
                check_all(config, steps)


def _run_step(config: RunConfig, step: Step, before: list[Step], console: Console) -> Step:
    from pdray.progress import Progress

    store = RunStore(config.run)
    step.folder.make_folder()
    store.reopen(step.folder)
    spent = read_spent(step.folder)
    attempt = store.begin(step.folder)
    done = {other.stage.name: other for other in before}
    context = StageContext(
        config=config,
        run=store.root,
        folder=step.folder,
        fingerprint=step.fingerprint,
        upstream=upstream_of([done[name] for name in step.reads]),
        progress=Progress(console, step.stage.name),
    )
    began, start = time.time(), time.monotonic()
    try:
        with context.progress.running():
            result = step.stage.run(context)
            metrics.count(metrics.FAILURES, result.quarantined, what="row")
            tracing.tell(rows_in=result.rows_in, rows_out=result.rows_out, quarantined=result.quarantined)
        gc.collect()  # Ray's data sets refer to themselves: their blocks would stay in the object store for stages
    except BaseException:
        with contextlib.suppress(OSError, UserError):  # the reason why the stage ended is worth more
            store.end(step.folder, attempt, time.monotonic() - start)
        raise
    accounted = result.rows_out + result.quarantined + sum(result.dropped.values())
    assert result.rows_in == accounted, f"{step.stage.name}: {result.rows_in} rows in, {accounted} accounted for"
    manifest = _manifest(step, done, result, began) | {"attempts": attempt}
    manifest["seconds"] = round(time.monotonic() - start + spent, 3)
    store.finish(step.folder, manifest)
    for note in result.notes:
        context.progress.note(note)
    console.say(f"{step.stage.name:<10} {result.rows_out:,} rows in {manifest['seconds']:.0f} s -> {step.folder}")
    return replace(step, manifest=manifest, output=result.output)


def _manifest(step: Step, done: dict[str, Step], result: StageResult, began: float) -> dict[str, Any]:
    return {
        "stage": step.stage.name,
        "version": step.stage.version,
        "fingerprint": step.fingerprint,
        "config": step.settings,
        "inputs": {name: done[name].fingerprint for name in step.reads},
        "packages": package_versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "rows_in": result.rows_in,
        "rows_out": result.rows_out,
        "quarantined": result.quarantined,
        "dropped": result.dropped,
        "output": to_json(result.output),
        "metrics": result.metrics,
        "notes": result.notes,
    }


def _state(config: RunConfig, steps: list[Step]) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),
        "stages": {step.stage.name: step.folder.name for step in steps},
    }
