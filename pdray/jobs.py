"""What the scripts in ``jobs/`` share: run the pipeline up to a stage, exactly as ``pdray run`` does."""

from __future__ import annotations

from pdray.cli.ending import exit_code
from pdray.cli.parser import Parser
from pdray.cli.run import run_config, take_run


def run_until(stage: str | None = None) -> int:
    """:meth:`pdray.Run.run` with a config and settings from this script's own arguments.

    Args:
        stage: the last stage to run; None runs them all.

    Returns:
        the exit code of ``pdray run``.
    """
    parser = Parser(description=f"Run what is not done yet, {f'up to the stage {stage}' if stage else 'every stage'}.")
    take_run(parser)
    parser.set_defaults(until=stage, only_prints=False)
    return exit_code(run_config, parser.parse_args())
