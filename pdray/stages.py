"""The contract of a stage: what it gets, what it returns and what decides its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdray.config import RunConfig

if TYPE_CHECKING:
    from pdray.progress import Progress


@dataclass(frozen=True)
class StageContext:
    """What a stage reads and where it writes.

    Attributes:
        config: the resolved run.
        folder: this stage's folder; everything it writes stays inside.
        inputs: folder of each finished upstream stage, by name.
        manifests: manifest of each finished upstream stage, by name.
        progress: the user's progress line.
    """

    config: RunConfig
    folder: Path
    inputs: dict[str, Path]
    manifests: dict[str, dict[str, Any]]
    progress: Progress


@dataclass(frozen=True)
class StageResult:
    """What goes into the manifest.

    Attributes:
        rows_in: rows read.
        rows_out: rows written; ``rows_in == rows_out + quarantined + sum(dropped.values())``.
        quarantined: rows set aside with a reason.
        dropped: rows left out by a stated rule, by rule.
        metrics: what ``pdray show`` prints of the stage.
        notes: what was degraded or worth telling, in sentences.
    """

    rows_in: int
    rows_out: int
    quarantined: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """One of the five stages.

    Attributes:
        name: also the start of the folder name.
        version: raised when the same settings would give another result.
        upstream: names of the stages that it reads.
        settings: what decides the result, as a JSON value; includes the identity of outside inputs.
        run: does the work; imports heavy packages only when called.
        resumable: whether ``run`` continues what an interrupted attempt left in the folder.
        check: refuses what the manifests of the finished stages show to be impossible.
    """

    name: str
    version: int
    upstream: tuple[str, ...]
    settings: Callable[[RunConfig], dict[str, Any]]
    run: Callable[[StageContext], StageResult]
    resumable: bool = False
    check: Callable[[RunConfig, dict[str, dict[str, Any]]], None] | None = None
