"""A run folder as the report sees it: what every stage says of itself, as far as it can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdray.pipeline import all_stages
from pdray.schema import Output, check_types
from pdray.stages import Stage
from pdray.storage import StoragePath
from pdray.store import MANIFEST, RunStore, read_manifest
from pdray.summary import IN_ROUNDS, summarise


@dataclass(frozen=True)
class StageView:
    """A stage of the run.

    Attributes:
        name: of the stage.
        status: complete, running, incomplete, damaged, in rounds, or not configured.
        folder: where it writes; None where it is not configured, or in rounds.
        manifest: of a complete stage, else empty.
        output: what a complete stage hands over.
        reason: why it is damaged.
        attempts: how often it was started.
    """

    name: str
    status: str
    folder: StoragePath | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    output: Output | None = None
    reason: str = ""
    attempts: int = 0

    @property
    def complete(self) -> bool:
        """Whether its manifest stands and tells what was handed over."""
        return self.output is not None

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the manifest; empty while it is not complete."""
        found: dict[str, Any] = self.manifest.get("metrics", {})
        return found


@dataclass(frozen=True)
class RunView:
    """A run.

    Attributes:
        root: the run folder.
        config: as the last start resolved it.
        stages: by name, in their order.
        rounds: folders of several rounds below the run folder.
    """

    root: StoragePath
    config: dict[str, Any]
    stages: dict[str, StageView]
    rounds: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> StageView:
        return self.stages[name]

    @property
    def configured(self) -> list[StageView]:
        """The stages that the run has, but for those that each round has in its own folder."""
        return [stage for stage in self.stages.values() if stage.status not in ("not configured", IN_ROUNDS)]

    def section(self, name: str) -> dict[str, Any]:
        """A section of the configuration; empty where there is none."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}


def read_run(run: str | Path) -> RunView:
    """Look at a run.

    Raises:
        UserError: there is no run in the folder, or it cannot be read.
    """
    summary = summarise(run)
    store = RunStore(run)
    state = store.read_state()
    views = {
        stage.name: _view(stage, summary["stages"][stage.name], store.root, state["stages"]) for stage in all_stages()
    }
    config = state.get("config")
    return RunView(store.root, config if isinstance(config, dict) else {}, views, tuple(summary.get("rounds", ())))


def _view(stage: Stage, shown: dict[str, Any], root: StoragePath, folders: dict[str, str]) -> StageView:
    status, name = shown["status"], stage.name
    if name not in folders or status == IN_ROUNDS:
        return StageView(name, status)
    folder = root / folders[name]
    attempts = shown.get("attempts", 0)
    if status != "complete":
        return StageView(name, status, folder, reason=shown.get("reason", ""), attempts=attempts)
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} was complete a moment ago"
    try:
        output = stage.load(manifest["output"])
        check_types(output)
    except (KeyError, TypeError, AttributeError, ValueError):
        told = f"{folder.name}/{MANIFEST} does not say what the stage hands over"
        return StageView(name, "damaged", folder, manifest, None, told, attempts)
    return StageView(name, status, folder, manifest, output, attempts=attempts)
