"""Runs one stage outside the pipeline, with the parts of a context that it reads."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pdray.console import Console
from pdray.progress import Progress
from pdray.stages import StageContext, StageResult


def run_stage(module: Any, folder: Path, inputs: Any = None, manifests: Any = None, **sections: Any) -> StageResult:
    """Run ``module.run`` into a fresh folder.

    Args:
        module: a stage module.
        folder: created; where the stage writes.
        inputs: folders of upstream stages.
        manifests: manifests of upstream stages.
        sections: the sections and the seed that the stage reads from the run's config.
    """
    folder.mkdir(parents=True)
    config = SimpleNamespace(**{"seed": 0} | sections)
    progress = Progress(Console(io.StringIO(), io.StringIO()), "test")
    result: StageResult = module.run(StageContext(config, folder, inputs or {}, manifests or {}, progress))
    return result
