"""What the scripts in ``jobs/`` share: run the pipeline up to a stage, exactly as ``pdray run`` does."""

from __future__ import annotations

import sys

from pdray.cli import main


def run_until(stage: str | None = None) -> int:
    """Run ``pdray run`` with this script's own arguments.

    Args:
        stage: the last stage to run; None runs them all.

    Returns:
        the exit code of ``pdray run``.
    """
    until = ["--until", stage] if stage else []
    return main(["run", *sys.argv[1:], *until])
