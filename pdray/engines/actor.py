"""The worker of a pass: holds the engines, takes shards one after the other, writes what comes out."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.engines.encode import Encoded, ModelEncoder, TextFacts
from pdray.engines.engine import EngineOptions, RewardEngine, Rewards
from pdray.engines.failures import EngineBrokenError, TooManyFailedError, as_matrix, score_around
from pdray.engines.parity import compare, require_parity
from pdray.engines.shards import PARITY, TextPass
from pdray.errors import UserError
from pdray.runtime.beside import Kept
from pdray.shards import CONTENT, content_of, deadline, error_text
from pdray.storage import node_copy
from pdray.texts import read_texts

ENCODED_AT_ONCE = 256  # texts
LOAD_SECONDS = 1800.0
EXIT_SECONDS = 10
FAILED_BEFORE = "its process or engine ended or hung whenever it was scored"


@dataclass(frozen=True)
class Work:
    """All that a worker of a pass needs; picklable.

    Attributes:
        text_pass: the pass.
        digests: of the model folders, for copies on the nodes.
        num_labels: outputs of each model.
        options: how each engine is loaded.
        most_failed: texts that may fail.
        left_out: shard -> rows that are not to be tried.
        sample: see :func:`~pdray.engines.parity.take_sample`.
        reference: rewards of the sample from Transformers.
        call_tokens: tokens that an engine gets at once, at least.
    """

    text_pass: TextPass
    digests: list[str]
    num_labels: list[int]
    options: EngineOptions
    most_failed: int
    left_out: dict[int, list[int]]
    sample: pa.Table
    reference: Rewards
    call_tokens: int

    @property
    def labels(self) -> list[str]:
        """A name for each output."""
        return self.text_pass.labels or [f"output {number}" for number in range(sum(self.num_labels))]


@dataclass(frozen=True)
class Spent:
    """What some texts cost, for each model: ``tokens`` that it read and ``seconds`` of its engine."""

    tokens: list[int]
    seconds: list[float]

    @staticmethod
    def nothing(num_models: int) -> Spent:
        """To add to."""
        return Spent([0] * num_models, [0.0] * num_models)

    def add(self, tokens: list[int], seconds: list[float]) -> None:
        """Count more, in place."""
        self.tokens[:] = map(sum, zip(self.tokens, tokens, strict=True))
        self.seconds[:] = map(sum, zip(self.seconds, seconds, strict=True))


def bound_exit(seconds: int) -> None:
    """Give the exit of this process so many seconds, after which the kernel ends it.

    Ray 2.60 may lock up in the C++ of a worker's exit. The worker would hold its memory for ever, also that of a GPU
    which Ray has given away by then.
    """
    atexit.register(signal.alarm, seconds)


def end_process(reason: str) -> None:
    """End this worker at once, and say why in its log; Ray starts it anew and gives it the same shard."""
    print(f"this worker ends: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


class ShardScorer:
    """A Ray Data actor: ``{"shard": number}`` in, how it went out.

    Several calls may run at once. One thread alone talks to the engines, so while they compute a slice of one shard,
    the next slice, or the next shard, is read and tokenised.

    Args:
        work: see :class:`Work`.
        counter: the user's progress, in texts.
        roll: a :class:`~pdray.engines.workers.Roll` that every worker enters, or None.
    """

    def __init__(self, work: Work, counter: Any, roll: Kept | None = None) -> None:
        if roll is not None:
            import ray

            with contextlib.suppress(ray.exceptions.RayError):  # without the list a worker may outlive its round
                roll.ask("enter", ray.get_runtime_context().current_actor)
            bound_exit(EXIT_SECONDS)
        self._work = work
        self._counter = counter
        self._engine_thread = ThreadPoolExecutor(1, "engine")
        self._loading = threading.Lock()
        self._loaded: Future[list[RewardEngine]] | None = None
        self._folders: list[Path] | None = None
        self._scored: list[list[int] | None] = [None] * len(work.num_labels)  # by each engine, once
        self._broken = ""
        self._encoders = threading.local()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score and write a shard.

        Returns:
            ``shard``; ``error`` and ``refusal``, a UserError's message, empty where there is none; ``texts`` and
            ``tokens`` that were read, ``failed`` texts among them, and ``pairs`` of the shard; ``seconds`` of the
            texts, without loading. Nothing is raised: Ray Data would only count it. After a shard that a broken engine
            has failed this process ends, or it would fail one after the other faster than others score them.
        """
        if self._broken:
            end_process(self._broken)
        shard = int(row["shard"])
        outcome = {"shard": shard, "error": "", "refusal": "", "texts": 0, "tokens": 0, "failed": 0, "pairs": 0}
        outcome["seconds"] = 0.0
        try:
            with self._counter.working(f"shard {shard}"):
                return outcome | self._write(shard)
        except UserError as error:
            return outcome | {"refusal": str(error)}
        except Exception as error:
            return outcome | {"error": error_text(error)}

    def probe(self, shard: int, start: int, stop: int) -> None:
        """Score some of the texts that a shard's rows choose, and write nothing: does this process live through it?

        Raises:
            EngineBrokenError: its engine does not, or none of the texts was scored.
        """
        texts, rows = self._read(shard)
        part = slice(start, stop)
        self._engines()
        *_, failed = self._score(shard, texts.take(rows[part]), rows[part])
        if failed and len(failed) == len(rows[part]):
            raise EngineBrokenError(next(iter(failed.values())))

    def _write(self, shard: int) -> dict[str, Any]:
        text_pass = self._work.text_pass
        texts, rows = self._read(shard)
        if len(rows):
            self._engines()
        began = time.monotonic()
        outputs, facts, spent, failed = self._score(shard, texts.take(rows), rows)
        tokens = sum(spent.tokens)
        with deadline(text_pass.config.step_timeout):
            tables, more = text_pass.write(shard, rows, outputs, facts)
            marker = text_pass.corpus.read_marker(shard)
            assert marker is not None, "the corpus is whole"
            counts = {
                "texts": len(rows),
                "tokens": tokens,
                "model_tokens": spent.tokens,
                "model_seconds": [round(seconds, 3) for seconds in spent.seconds],
                "truncated": int(facts.truncated.sum()),
                "non_finite": int((~np.isfinite(outputs)).sum()),
                "seconds": round(time.monotonic() - began, 3),
                CONTENT: content_of(tables),
            }
            more["failed"] = sorted([*more.get("failed", []), *([int(row), failed[row]] for row in failed)])
            text_pass.target.write(shard, tables, marker.ids_sum, counts | more)
        done = {"texts": len(rows), "tokens": tokens, "failed": len(failed), "pairs": marker.rows("pairs")}
        return done | {"seconds": time.monotonic() - began}

    def _read(self, shard: int) -> tuple[pa.Table, np.ndarray]:
        text_pass = self._work.text_pass
        with deadline(text_pass.config.step_timeout):
            texts = read_texts(text_pass.corpus, shard)
            rows = np.arange(len(texts)) if text_pass.rows is None else text_pass.rows(shard, len(texts))
        return texts, rows

    def _score(self, shard: int, texts: pa.Table, rows: np.ndarray) -> tuple[Rewards, TextFacts, Spent, dict[int, str]]:
        """Outputs, facts, costs and failed rows of some texts of a shard."""
        left_out = set(self._work.left_out.get(shard, ()))
        failed: dict[int, str] = dict.fromkeys(sorted(left_out & set(rows.tolist())), FAILED_BEFORE)
        outputs, facts, spent = [], [], Spent.nothing(len(self._work.num_labels))
        waiting: list[tuple[np.ndarray, Encoded, Future[tuple[Rewards, dict[int, str], list[float]]]]] = []

        def settle() -> None:
            positions, encoded, future = waiting.pop(0)
            rewards, broken, seconds = future.result()
            spent.add(encoded.model_tokens, seconds)
            outputs.append(rewards)
            facts.append(encoded.facts)
            failed.update({int(rows[positions[index]]): reason for index, reason in broken.items()})
            self._counter.add(len(positions))

        for positions, encoded in self._slices(texts):
            skipped = {index for index, row in enumerate(rows[positions]) if row in left_out}
            waiting.append((positions, encoded, self._engine_thread.submit(self._run, encoded, skipped)))
            if len(waiting) > 1:
                settle()
        while waiting:
            settle()
        width = sum(self._work.num_labels)
        return (
            np.concatenate([np.empty((0, width), np.float32), *outputs]),
            TextFacts(
                np.concatenate([np.empty(0, np.int32), *(one.num_tokens for one in facts)]),
                np.concatenate([np.empty(0, bool), *(one.truncated for one in facts)]),
            ),
            spent,
            failed,
        )

    def _slices(self, texts: pa.Table) -> Iterator[tuple[np.ndarray, Encoded]]:
        """Positions and token ids of consecutive texts, enough at once to keep an engine busy."""
        start = stop = tokens = 0
        parts: list[Encoded] = []
        while stop < len(texts):
            with deadline(self._work.text_pass.config.step_timeout):
                parts.append(self._encoder().encode(texts.slice(stop, ENCODED_AT_ONCE)))
            stop = min(stop + ENCODED_AT_ONCE, len(texts))
            tokens += parts[-1].tokens
            if tokens >= self._work.call_tokens or stop == len(texts):
                yield np.arange(start, stop), _joined(parts)
                start, tokens, parts = stop, 0, []

    def _run(self, encoded: Encoded, skipped: set[int]) -> tuple[Rewards, dict[int, str], list[float]]:
        """In the engine thread: rewards of a slice, the reason of each text that failed, seconds of each engine.

        Raises:
            EngineBrokenError: an engine raises for what it has scored before, or for too many while it has scored
                nothing.
            TooManyFailedError: as of :func:`~pdray.engines.failures.score_around`.
        """
        assert self._loaded is not None
        if self._broken:
            raise EngineBrokenError(self._broken)
        num_texts = len(encoded.facts.num_tokens)
        texts = [index for index in range(num_texts) if index not in skipped]
        matrices: list[Rewards] = []
        failed: dict[int, str] = {}
        seconds = []
        engines = zip(self._loaded.result(), encoded.ids, self._work.num_labels, strict=True)
        for number, (engine, ids, labels) in enumerate(engines):

            def score(part: list[int], engine: RewardEngine = engine, ids: list[list[int]] = ids) -> Rewards:
                with deadline(self._work.text_pass.config.step_timeout):
                    return engine.score([ids[index] for index in part])

            began = time.monotonic()
            try:
                rewards, broken = score_around(score, texts, self._work.most_failed)
            except TooManyFailedError as error:
                self._check_engine(number, engine)
                if self._scored[number] is None:  # as in a probe: engine and texts cannot be told apart
                    raise EngineBrokenError(f"the engine has scored no text yet: {error}") from None
                raise
            if broken:
                self._check_engine(number, engine)
                if self._scored[number] is None and len(broken) == len(texts) > 1:
                    raise EngineBrokenError(f"the engine raises for every text: {next(iter(broken.values()))}")
            elif texts and self._scored[number] is None:
                self._scored[number] = ids[texts[0]]
            seconds.append(time.monotonic() - began)
            failed |= broken
            matrices.append(as_matrix(rewards, num_texts, labels))
        outputs = np.concatenate(matrices, axis=1)
        outputs[list(failed)] = np.nan
        return outputs, failed, seconds

    def _check_engine(self, number: int, engine: RewardEngine) -> None:
        """Whether an engine for which texts failed still scores one that it has scored before."""
        if (ids := self._scored[number]) is None:
            return
        try:
            with deadline(self._work.text_pass.config.step_timeout):
                engine.score([ids])
        except Exception as error:
            self._broken = f"the engine raises for a text that it has scored before: {error_text(error)}"
            raise EngineBrokenError(self._broken) from None

    def _encoder(self) -> ModelEncoder:
        """One for each thread: a tokenizer is not made to be shared."""
        if not hasattr(self._encoders, "one"):
            self._encoders.one = ModelEncoder(self._models(), self._work.text_pass.rule, self._work.options.output)
        encoder: ModelEncoder = self._encoders.one
        return encoder

    def _models(self) -> list[Path]:
        with self._loading:
            if self._folders is None:
                copies = zip(self._work.text_pass.models, self._work.digests, strict=True)
                self._folders = [node_copy(folder, digest) for folder, digest in copies]
            return self._folders

    def _engines(self) -> list[RewardEngine]:
        """The engines, loaded when the first text needs them and compared with Transformers before any is used."""
        folders = self._models()
        with self._loading:
            if self._loaded is None:
                self._loaded = self._engine_thread.submit(self._load, folders)
        return self._loaded.result()

    def _load(self, folders: list[Path]) -> list[RewardEngine]:
        work = self._work
        with deadline(max(LOAD_SECONDS, work.text_pass.config.step_timeout)):
            engines = [work.text_pass.load(str(folder), work.options) for folder in folders]
            if not len(work.sample):
                return engines
            encoded = ModelEncoder(folders, work.text_pass.rule, work.options.output).encode(work.sample)
            rewards = [engine.score(ids) for engine, ids in zip(engines, encoded.ids, strict=True)]
            self._scored = [ids[0] for ids in encoded.ids]
        parity = compare(work.sample, np.concatenate(rewards, axis=1), work.reference, work.labels)
        (work.text_pass.target.folder / PARITY).write_table(parity)
        require_parity(parity, work.sample["prompt"].to_pylist(), work.text_pass.config)
        return engines


def _joined(parts: list[Encoded]) -> Encoded:
    return Encoded(
        ids=[list(chain.from_iterable(lists)) for lists in zip(*(part.ids for part in parts), strict=True)],
        model_tokens=[sum(tokens) for tokens in zip(*(part.model_tokens for part in parts), strict=True)],
        facts=TextFacts(
            np.concatenate([part.facts.num_tokens for part in parts]),
            np.concatenate([part.facts.truncated for part in parts]),
        ),
    )


def without_sample(work: Work) -> Work:
    """The same work for a probe, whose engines were compared before."""
    return replace(work, sample=work.sample.slice(0, 0), reference=work.reference[:0])
