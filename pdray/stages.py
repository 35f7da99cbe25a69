"""The contract of a stage: what it gets, what it returns and what decides its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pdray.config import RunConfig
from pdray.schema import (
    AlignmentOutput,
    CorpusOutput,
    CrossfitOutput,
    LogprobsOutput,
    Output,
    ProxiesOutput,
    ScoresOutput,
    SelectionOutput,
)
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

if TYPE_CHECKING:
    from pdray.progress import Progress


@dataclass(frozen=True)
class Upstream:
    """The finished stages that a stage may read; None for one that it did not ask for.

    Attributes:
        folders: stage folder, by stage name.
        fingerprints: by stage name.
        corpus, proxies, scores, logprobs, crossfit, selection, alignment: what each handed over.
    """

    folders: dict[str, StoragePath] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    corpus: CorpusOutput | None = None
    proxies: ProxiesOutput | None = None
    scores: ScoresOutput | None = None
    logprobs: LogprobsOutput | None = None
    crossfit: CrossfitOutput | None = None
    selection: SelectionOutput | None = None
    alignment: AlignmentOutput | None = None

    def shards(self, stage: str) -> ShardedFolder:
        """The shards of a finished stage."""
        output = getattr(self, stage)
        return ShardedFolder(self.folders[stage], self.fingerprints[stage], output.num_shards)


@dataclass(frozen=True)
class StageContext:
    """What a stage reads and where it writes.

    Attributes:
        config: the resolved run.
        run: the run folder; paths in hand-overs are below it.
        folder: this stage's folder; everything it writes stays inside. It may hold what an earlier attempt left.
        fingerprint: of this stage.
        upstream: the finished stages that it named.
        progress: the user's progress line.
    """

    config: RunConfig
    run: StoragePath
    folder: StoragePath
    fingerprint: str
    upstream: Upstream
    progress: Progress

    def shards(self, num_shards: int) -> ShardedFolder:
        """This stage's own shards."""
        return ShardedFolder(self.folder, self.fingerprint, num_shards)


@dataclass(frozen=True)
class StageResult:
    """What goes into the manifest.

    Attributes:
        output: what later stages read.
        rows_in: rows read.
        rows_out: rows written; ``rows_in == rows_out + quarantined + sum(dropped.values())``.
        quarantined: rows set aside with a reason.
        dropped: rows left out by a stated rule, by rule.
        metrics: what ``pdray show`` prints of the stage.
        notes: what was degraded or worth telling, in sentences.
    """

    output: Output
    rows_in: int
    rows_out: int
    quarantined: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """One of the stages; each room's ``stage.py`` exports its own as ``STAGE``.

    Attributes:
        name: also the start of the folder name.
        version: raised when the same settings would give another result.
        upstream: names of the stages that it reads.
        reads_also: names of further ones that it reads under a config.
        settings: what decides the result, as a JSON value; includes the identity of outside inputs.
        run: does the work, continuing what an earlier attempt left; imports heavy packages only when called.
        load: its output from the JSON in the manifest.
        shown: what ``pdray show --json`` takes from its metrics.
        check: refuses what the config and the outputs of finished stages (by name) show to be impossible.
        damage: what is no longer whole in the finished stage's folder, given its manifest, of all that neither a shard
            nor a model folder tells; None where everything is.
        optional: whether a run has it only where the config has its section.
        anew: whether a model that it lost is trained in a folder of another fingerprint, and with it all that read the
            model: trained again it may be another one, whose rewards must not stand beside those of the first.
    """

    name: str
    version: int
    upstream: tuple[str, ...]
    settings: Callable[[RunConfig], dict[str, Any]]
    run: Callable[[StageContext], StageResult]
    load: Callable[[dict[str, Any]], Output]
    shown: tuple[str, ...] = ()
    check: Callable[[RunConfig, Upstream], None] | None = None
    damage: Callable[[StoragePath, dict[str, Any]], str | None] | None = None
    reads_also: Callable[[RunConfig], tuple[str, ...]] = lambda config: ()
    optional: bool = False
    anew: bool = False

    def reads(self, config: RunConfig) -> tuple[str, ...]:
        """All stages that it reads in a run."""
        return self.upstream + self.reads_also(config)
