"""Which model the trained policy is compared with."""

from __future__ import annotations

from pathlib import Path

from pdray.config import AlignmentConfig, GenerationConfig
from pdray.errors import UserError
from pdray.schema import AlignmentOutput
from pdray.storage import StoragePath
from pdray.store import ROUNDS, RUN_STATE, DamagedError, RunStore, read_manifest


def baseline_folder(generation: GenerationConfig, alignment: AlignmentConfig) -> str:
    """The model folder of the baseline.

    Raises:
        UserError: it is a run that has trained no policy.
    """
    path = generation.baseline
    if path is None:
        return alignment.policy
    if not (Path(path) / RUN_STATE).is_file():
        return path
    stage = RunStore(path).read_state()["stages"].get("alignment")
    try:
        manifest = read_manifest(StoragePath(path) / stage) if stage else None
        output = None if manifest is None else AlignmentOutput(**manifest["output"])
    except (DamagedError, TypeError):
        output = None
    if output is None and (rounds := (StoragePath(path) / ROUNDS).folders()):
        raise UserError(
            f"evaluation.generation.baseline is {path}, a run of several rounds, each of which trains a policy; name "
            f"the folder of a finished one, as in {Path(path) / ROUNDS / rounds[-1]}"
        )
    if output is None:
        raise UserError(
            f"evaluation.generation.baseline is {path}, a run without a finished alignment; let it finish, or name "
            "another run or a model folder"
        )
    return str(Path(path) / output.policy)
