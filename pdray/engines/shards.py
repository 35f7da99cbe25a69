"""The pass that runs models over the texts of a corpus, shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pdray.config import EngineConfig
from pdray.engines.encode import TextFacts
from pdray.engines.engine import EngineLoader, Output, load_engine
from pdray.engines.failures import TooManyFailedError
from pdray.engines.parity import Figures, measure
from pdray.errors import UserError
from pdray.progress import Progress
from pdray.responses import CutRule
from pdray.shards import VERIFY_THREADS, Markers, ShardedFolder, ShardsFailedError, run_rounds
from pdray.storage import StoragePath
from pdray.tokens import TokenRule

PARITY = "parity.parquet"


class ShardWriter(Protocol):
    """Turns the outputs for a shard into its tables; picklable, called in the actor."""

    def __call__(
        self, shard: int, rows: np.ndarray, outputs: np.ndarray, facts: TextFacts
    ) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """Make the tables of a shard.

        Args:
            shard: its number.
            rows: (n,) int64, row numbers in the corpus' texts, ascending.
            outputs: (n, outputs of all models, in order) float32; a row of NaN where a text could not be scored.
            facts: of the same n texts: ``num_tokens`` (n,) int32 and ``truncated`` (n,) bool.

        Returns:
            tables by name, and facts for the marker, for :meth:`pdray.shards.ShardedFolder.write`. They take the
            place of the pass's own facts, but for ``failed``, to which the pass adds.
        """
        ...


class RowChooser(Protocol):
    """Which texts of a shard are computed; picklable, called in workers."""

    def __call__(self, shard: int, num_texts: int) -> np.ndarray:
        """Row numbers in the corpus' texts, (n,) int64 ascending, of the shard's ``num_texts``."""
        ...

    def number(self, shard: int, num_texts: int) -> int | None:
        """How many those are, for the progress line; None where it takes reading the shard."""
        ...


@dataclass(frozen=True)
class TextPass:
    """One pass.

    Attributes:
        models: their folders, usually one: sequence classifiers and encoders, or language models.
        rule: how texts are cut.
        corpus: its ``texts`` are read.
        target: where the tables of each shard are written.
        rows: the texts to compute; None means all.
        write: makes the tables.
        config: engine, dtype, actors, resources, limits and thresholds.
        labels: a name for each output, for messages; empty numbers them.
        load: loads a model; tests bring their own.
        output: what is read of the texts.
    """

    models: list[StoragePath]
    rule: TokenRule | CutRule
    corpus: ShardedFolder
    target: ShardedFolder
    rows: RowChooser | None
    write: ShardWriter
    config: EngineConfig
    labels: list[str] = field(default_factory=list)
    load: EngineLoader = load_engine
    output: Output = "rewards"


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        markers: of every shard. Their facts hold ``texts`` and ``tokens`` that were computed, ``truncated`` texts and
            ``non_finite`` outputs among them, ``failed`` as [row, reason] and ``seconds``, and what the writer added.
        seconds: from the first text that this process computed to the last; 0 where all shards were there.
        texts: computed by this process.
        tokens: of those, over all models.
        parity: the comparison with Transformers, of this process or of the one that went before; None where no engine
            ran.
        num_actors: workers that the cluster held when the pass began.
    """

    markers: Markers
    seconds: float
    texts: int
    tokens: int
    parity: Figures | None
    num_actors: int

    @property
    def failed(self) -> list[tuple[int, int, str]]:
        """(shard, row, reason) of every text that could not be scored."""
        return [
            (shard, int(row), str(reason))
            for shard, marker in sorted(self.markers.items())
            for row, reason in marker.facts["failed"]
        ]

    def total(self, fact: str) -> int:
        """A fact, added up over the shards."""
        return sum(int(marker.facts[fact]) for marker in self.markers.values())

    def model_total(self, fact: str, model: int) -> float:
        """``model_tokens``, whole, or ``model_seconds`` of one of the pass's models, added up over the shards."""
        total: float = round(sum(marker.facts[fact][model] for marker in self.markers.values()), 3)
        return total

    @property
    def rates(self) -> dict[str, float]:
        """``texts_per_second``, ``tokens_per_second`` and the ``seconds`` they rest on."""
        per = 1 / self.seconds if self.seconds > 0 else 0.0
        return {
            "texts_per_second": round(self.texts * per, 3),
            "tokens_per_second": round(self.tokens * per, 1),
            "seconds": round(self.seconds, 3),
        }


def run_text_pass(text_pass: TextPass, progress: Progress, what: str) -> PassResult:
    """Compute what is missing of a pass, in an elastic pool of actors; see docs of the modules beside this one.

    A text that raises in the engine, and one that takes its process down, becomes a row of NaN and is listed.

    Args:
        text_pass: what to compute.
        progress: the user's progress line.
        what: the step in a word or two.

    Raises:
        UserError: the models, the cluster or the engine do not fit the config, the engine's outputs are not those of
            Transformers, or more than ``max_failed`` of the texts cannot be scored.
        ShardsFailedError: shards that failed in every round for a reason that no text is to blame for.
    """
    from pdray.engines.pool import Pool

    corpus = text_pass.corpus.done()
    num_texts = sum(marker.rows("texts") for marker in corpus.values())
    assert len(corpus) == text_pass.corpus.num_shards, "the corpus is whole when a later stage runs"
    most = int(text_pass.config.max_failed * num_texts)
    with progress.counting(what, total=_expected(text_pass, corpus), unit="texts") as counter:
        pool = Pool(text_pass, most, counter, progress.note)
        markers = _all_rounds(text_pass, pool, progress.note)
    result = PassResult(
        markers,
        pool.seconds,
        pool.texts,
        pool.tokens,
        read_parity(text_pass.target.folder, progress.note),
        pool.num_actors,
    )
    _check_failed(result.failed, num_texts, text_pass.config)
    return result


def _expected(text_pass: TextPass, corpus: Markers) -> int | None:
    """Texts that are still to be computed, where that is known beforehand."""
    done, rows = text_pass.target.done(), text_pass.rows
    left = {shard: marker.rows("texts") for shard, marker in corpus.items() if shard not in done}
    if rows is None:
        return sum(left.values())
    with ThreadPoolExecutor(VERIFY_THREADS) as pool:  # a chooser may read a marker
        numbers = list(pool.map(rows.number, left, left.values()))
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _all_rounds(text_pass: TextPass, pool: Any, note: Callable[[str], None]) -> Markers:
    """The rounds, and where workers are lost in all of them, the search for the texts that end them."""
    try:
        return run_rounds(text_pass.target, pool.attempt, note)
    except ShardsFailedError as error:
        for reason in error.failed.values():
            if TooManyFailedError.__name__ in reason:
                raise UserError(f"{reason}; {text_pass.config.accept_failed}") from None
        if not pool.leave_out_killers(error.failed):
            raise
    return run_rounds(text_pass.target, pool.attempt, note)


def _check_failed(failed: list[tuple[int, int, str]], num_texts: int, config: EngineConfig) -> None:
    limit = f"{config.section}.max_failed"
    if len(failed) <= config.max_failed * num_texts:
        return
    shard, row, reason = failed[0]
    raise UserError(
        f"{len(failed)} of {num_texts:,} texts cannot be scored, which is above {limit} {config.max_failed:g}; the "
        f"first is text {row} of corpus shard {shard} ({reason}); mend the texts or the model, or raise {limit}"
    )


def read_parity(folder: StoragePath, note: Callable[[str], None]) -> Figures | None:
    """The comparison with Transformers that stands in a stage folder; None where there is none, or it is damaged.

    Args:
        folder: of the stage.
        note: tells the user that it is damaged.
    """
    path = folder / PARITY
    try:
        return measure(path.read_table())
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        note(f"{path} is damaged, so how near its numbers come to those of Transformers is not known any more")
        return None
