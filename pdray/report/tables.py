"""The narrow columns of a shard's pairs, brought together from corpus, scores and selection; nothing is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import TemplateError

from pdray.errors import UserError
from pdray.report.run import RunView
from pdray.schema import PAIRS, TEXTS, CorpusOutput, SelectionOutput
from pdray.selection.auroc import largest_divergence
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

# What a manifest that holds anything but pdray's own figures leads to.
ODD = (
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    TemplateError,
    pa.ArrowException,
)


class UnreadableError(ValueError):
    """A table that is gone, damaged or not what the manifest says; the message says which."""


class ReadOnlyShards(ShardedFolder):
    """Shards that are looked at: where a table is damaged its marker stays, for a run and not a report mends it."""

    @contextlib.contextmanager
    def _digested(self, name: str, shard: int) -> Iterator[pq.ParquetFile]:
        try:
            with super()._digested(name, shard) as file:
                yield file
        except UserError:
            raise UnreadableError(f"{self._below_run(name, shard)} has no digest: its marker is gone or old") from None

    @contextlib.contextmanager
    def _undamaged(self, name: str, shard: int) -> Iterator[StoragePath]:
        try:
            yield self.table(name, shard)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(f"{self._below_run(name, shard)} cannot be read ({_first_line(error)})") from None

    def _below_run(self, name: str, shard: int) -> str:
        return f"{self.folder.name}/{name}/{self.table(name, shard).name}"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class PairColumns:
    """The n pairs of a shard.

    Attributes:
        ids: n ids.
        own: (n,) int64, index of the aspect that labelled each.
        source: n names, null where there is none.
        lengths: (n,) int64, tokens of the chosen response.
        conflict: (n,) float64, 1 or 0, NaN where it is not known.
        divergence: (n,) float64.
        kept: (n,) bool.
        margins: (κ, n) float64 in [−1, 1]; NaN for the own aspect and where it is not known.
        license: n names, null where there is none; None of a corpus without licences.
    """

    ids: pa.ChunkedArray
    own: np.ndarray
    source: pa.ChunkedArray
    lengths: np.ndarray
    conflict: np.ndarray
    divergence: np.ndarray
    kept: np.ndarray
    margins: np.ndarray
    license: pa.ChunkedArray | None = None


@dataclass(frozen=True)
class PairTables:
    """The pairs of a run whose corpus, scores and selection are complete.

    Attributes:
        corpus, scores, selection: their shards.
        aspects: κ names, sorted.
        rated: whether conflicts are known.
        conversational: whether texts are lists of messages.
        weights: aspect -> weight of its margin in the divergence.
        relabelled: whether some kept pairs got another label than that of the corpus.
        licensed: whether the pairs have a licence each.
    """

    corpus: ReadOnlyShards
    scores: ReadOnlyShards
    selection: ReadOnlyShards
    aspects: list[str]
    rated: bool
    conversational: bool
    weights: dict[str, float]
    relabelled: bool
    licensed: bool = False

    @staticmethod
    def of(run: RunView) -> PairTables | None:
        """Those of a run; None where one of the three stages is not complete."""
        corpus, selection = run["corpus"].output, run["selection"].output
        if not isinstance(corpus, CorpusOutput) or not isinstance(selection, SelectionOutput):
            return None
        if not run["scores"].complete:
            return None
        shards = {name: _shards(run, name, corpus.num_shards) for name in ("corpus", "scores", "selection")}
        return PairTables(
            **shards,
            aspects=corpus.aspects,
            rated=bool(corpus.rated),
            conversational=corpus.conversational,
            weights=selection.weights,
            relabelled=bool(run["selection"].metrics.get("relabelled")),
            licensed=corpus.licensed,
        )

    @property
    def num_shards(self) -> int:
        """S."""
        return self.corpus.num_shards

    @property
    def limit(self) -> float:
        """The largest size that a divergence can have."""
        return largest_divergence({aspect: self.weights[aspect] for aspect in self.aspects})

    def read(self, shard: int) -> PairColumns:
        """The pairs of a shard.

        Raises:
            UnreadableError: a table is gone or damaged, or the three are not of the same pairs.
        """
        optional = [name for name, there in (("conflict", self.rated), ("license", self.licensed)) if there]
        columns = ["aspect", "chosen_row", "source", *optional]
        pairs = self.corpus.read(PAIRS, shard, columns)
        tokens = self.scores.read(TEXTS, shard, ["num_tokens"])["num_tokens"].to_numpy()
        selected = self.selection.read(PAIRS, shard)
        chosen = pairs["chosen_row"].to_numpy()
        names = [f"margin.{aspect}" for aspect in self.aspects]
        if len(selected) != len(pairs) or not {"pd", "kept", *names} <= set(selected.column_names):
            raise UnreadableError(f"{self.selection.folder.name} does not hold the pairs of the corpus' shard {shard}")
        if len(chosen) and chosen.max() >= len(tokens):
            raise UnreadableError(f"{self.scores.folder.name} does not hold the texts of the corpus' shard {shard}")
        conflict = pairs["conflict"].cast(pa.float64()).to_numpy() if self.rated else np.full(len(pairs), np.nan)
        return PairColumns(
            ids=selected["pair_id"],
            own=pc.index_in(pairs["aspect"], pa.array(self.aspects)).to_numpy().astype(np.int64),
            source=pairs["source"],
            lengths=tokens[chosen].astype(np.int64),
            conflict=conflict,
            divergence=selected["pd"].to_numpy(),
            kept=selected["kept"].to_numpy(),
            margins=np.array([selected[name].to_numpy().astype(np.float64) for name in names]),
            license=pairs["license"] if self.licensed else None,
        )


def _shards(run: RunView, stage: str, num_shards: int) -> ReadOnlyShards:
    view = run[stage]
    assert view.folder is not None, "a complete stage has a folder"
    return ReadOnlyShards(view.folder, view.manifest["fingerprint"], num_shards)
