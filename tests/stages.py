"""Runs one stage outside the pipeline, with the parts of a context that it reads."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pdray.config import ScoresConfig
from pdray.console import Console
from pdray.progress import Progress
from pdray.schema import Output
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath

FINGERPRINT = "test"
STAGES = ("corpus", "proxies", "scores", "logprobs", "crossfit", "selection", "alignment")


def context(
    stage: Stage, root: Path | StoragePath, name: str = "", upstream: Upstream | None = None, **sections: Any
) -> StageContext:
    """What the pipeline would hand to a stage that writes to ``<root>/<stage>-test``.

    Args:
        stage: the room's ``STAGE``.
        root: the run folder.
        name: in place of ``test``, to run a stage twice in one run folder.
        upstream: what finished stages hand over; see :func:`finished` and :func:`join`.
        sections: the sections and the seed that the stage reads from the run's config.
    """
    run = root if isinstance(root, StoragePath) else StoragePath(str(root))
    folder = run / f"{stage.name}-{name or FINGERPRINT}"
    folder.make_folder()
    config: Any = SimpleNamespace(**{"run": str(run), "seed": 0, "scores": ScoresConfig()} | sections)
    progress = Progress(Console(io.StringIO(), io.StringIO()), "test")
    return StageContext(config, run, folder, FINGERPRINT, upstream or Upstream(), progress)


def run_stage(
    stage: Stage, root: Path | StoragePath, name: str = "", upstream: Upstream | None = None, **sections: Any
) -> StageResult:
    """Run a stage; see :func:`context`. Run again, it continues what is in its folder, as in the pipeline."""
    return stage.run(context(stage, root, name, upstream, **sections))


def finished(stage: str, folder: StoragePath, output: Output, fingerprint: str = FINGERPRINT) -> Upstream:
    """One finished stage, as the stages after it see it."""
    handed: dict[str, Any] = {stage: output} if stage in STAGES else {}
    return Upstream(folders={stage: folder}, fingerprints={stage: fingerprint}, **handed)


def join(*parts: Upstream) -> Upstream:
    """Several finished stages together."""
    whole = Upstream()
    for part in parts:
        handed = {name: getattr(part, name) for name in STAGES if getattr(part, name) is not None}
        whole = replace(
            whole,
            folders=whole.folders | part.folders,
            fingerprints=whole.fingerprints | part.fingerprints,
            **handed,
        )
    return whole
