"""The actors of a pass: how many fit, one round of shards through them, and the search for texts that end them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pdray import metrics
from pdray.config import EngineConfig
from pdray.engines.actor import ShardScorer, Work, without_sample
from pdray.engines.engine import EngineOptions, Output, Rewards
from pdray.engines.failures import EngineBrokenError, TooManyFailedError, find_killers
from pdray.engines.parity import reference_rewards, take_sample
from pdray.engines.shards import TextPass
from pdray.engines.workers import Prober, all_ended, tolerant
from pdray.errors import UserError
from pdray.models.place import copy_key
from pdray.runtime import Need, find_places, living_nodes, may_grow, nodes_may_come
from pdray.runtime.placement import node_cpus
from pdray.shards import LOST, Outcome
from pdray.storage import StoragePath

# Short tasks run beside the actors, in Ray Data too. With whole CPUs for every actor a small cluster would have none
# left for them, and the pass would never start.
TASK_SHARE = 0.1
RESTARTS = 8  # of an actor, beside those that its shards may cost
CALL_TOKENS = {"cpu": 32_768, "gpu": 262_144}


@dataclass(frozen=True)
class ActorSize:
    """What an actor gets.

    Attributes:
        cpus: CPUs that it uses.
        gpus: GPUs.
    """

    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """What it asks Ray for."""
        return {"num_cpus": round(self.cpus * (1 - TASK_SHARE), 4), "num_gpus": self.gpus}

    @property
    def threads(self) -> int:
        """CPU threads."""
        return max(1, math.floor(self.cpus))


def actor_size(config: EngineConfig, nodes: list[dict[str, float]]) -> ActorSize:
    """An actor's part of a node; where the config leaves it open, all CPUs, or one CPU beside its GPU."""
    usual = 1.0 if config.gpus_per_actor else node_cpus(nodes)
    return ActorSize(config.cpus_per_actor or usual, config.gpus_per_actor)


def engine_options(config: EngineConfig, size: ActorSize, num_models: int, output: Output = "rewards") -> EngineOptions:
    """How each of an actor's engines is loaded; they share its memory evenly."""
    # The config speaks of the actor's part of a GPU, engines of the whole; without a GPU there is nothing to part.
    part = min(1, size.gpus) or 1
    return EngineOptions(
        engine=config.engine,
        dtype=config.resolved_dtype,
        max_tokens=config.max_tokens,
        threads=size.threads,
        num_gpus=size.gpus,
        memory_share=config.memory_share * part / num_models,
        cpu_cache_bytes=int(config.cpu_cache_gib * 2**30),
        engine_args=config.engine_args,
        output=output,
        section=config.section,
    )


class Pool:
    """Runs the shards of a pass.

    Args:
        text_pass: the pass.
        most_failed: texts that may fail.
        counter: the user's progress, in texts.
        note: tells the user.

    Attributes:
        seconds, texts, tokens: what was computed so far; see :class:`~pdray.engines.shards.PassResult`.
        num_actors: that fitted when the pass began.
    """

    def __init__(self, text_pass: TextPass, most_failed: int, counter: Any, note: Callable[[str], None]) -> None:
        self.seconds = 0.0
        self.texts = self.tokens = self.num_actors = 0
        self._pass, self._most, self._counter, self._note = text_pass, most_failed, counter, note
        self._work: Work | None = None
        self._size = actor_size(text_pass.config, living_nodes())
        self._rounds = 0

    def attempt(self, shards: Sequence[int]) -> Iterator[Outcome]:
        """One round: the shards through an elastic pool of actors.

        Raises:
            UserError: as met by an actor.
        """
        import ray

        work = self._prepared()
        began, ended = math.inf, 0.0
        with tolerant(), all_ended() as roll:
            rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
            outcomes = rows.map(
                ShardScorer,
                fn_constructor_args=(work, self._counter, roll),
                compute=self._strategy(len(shards)),
                # Each shard may cost a restart per try. An actor with none left would leave Ray Data waiting.
                max_restarts=2 * len(shards) + RESTARTS,
                # A node that goes away is met at once; what ends its worker again is left to the next rounds.
                max_task_retries=1 if self._rounds == 0 else 0,
                **self._size.resources,
            )
            try:
                for row in outcomes.iter_rows():
                    if row["refusal"]:
                        raise UserError(row["refusal"])
                    if not row["error"]:
                        self.texts, self.tokens = self.texts + row["texts"], self.tokens + row["tokens"]
                        metrics.count(metrics.TEXTS, row["texts"])
                        metrics.count(metrics.TOKENS, row["tokens"])
                        metrics.count(metrics.PAIRS, row["pairs"])
                        metrics.count(metrics.FAILURES, row["failed"], what="text")
                        ended = time.monotonic()  # nodes have clocks of their own, which may jump
                        began = min(began, ended - row["seconds"])
                    yield Outcome(row["shard"], row["error"] or None)
            except ray.exceptions.RayError as error:
                self._note(f"the round ended early: {' '.join(str(error).split())[:200]}")
        self.seconds += max(0.0, ended - began)
        self._rounds += 1

    def _strategy(self, num_shards: int) -> Any:
        import ray

        config = self._pass.config
        # One that is never there was refused before; fewer than are asked for begin, and take nodes that join.
        fitting = find_places(self._need(config.num_actors or 1), self._note, by_hand=True)
        self.num_actors = self.num_actors or min(fitting, config.num_actors or fitting)
        room = num_shards if may_grow() else fitting
        most = max(1, min(num_shards, config.num_actors or room))
        # What is asked for by number is asked for at once: an autoscaler's nodes then come together.
        least = most if config.num_actors and nodes_may_come() else max(1, min(fitting, most))
        # While one shard is computed the next is read; alone in later rounds, so that a text that ends its process
        # takes no other shard with it.
        calls = 2 if self._rounds == 0 else 1
        return ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=calls,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )

    def _need(self, count: int) -> Need:
        section = self._pass.config.section
        cure = " or ".join(f"{section}.{name}" for name in ("num_actors", "cpus_per_actor", "gpus_per_actor"))
        return Need("scoring actor", self._size.cpus, self._size.gpus, count, cure)

    def _prepared(self) -> Work:
        if self._work is None:
            text_pass = self._pass
            find_places(self._need(1), self._note)  # before the reference, which would wait for such a place in silence
            options = engine_options(text_pass.config, self._size, len(text_pass.models), text_pass.output)
            sample = take_sample(text_pass.corpus, text_pass.rows, text_pass.config.parity_rows)
            self._work = Work(
                text_pass=text_pass,
                digests=[copy_key(folder) for folder in text_pass.models],
                num_labels=output_counts(text_pass),
                options=options,
                most_failed=self._most,
                left_out={},
                sample=sample,
                reference=reference_of(text_pass, sample),
                call_tokens=CALL_TOKENS["gpu" if self._size.gpus else "cpu"],
            )
        return self._work

    def leave_out_killers(self, failed: dict[int, str]) -> bool:
        """Find the texts that end their process or its engine, in shards for which that came about in every round.

        Args:
            failed: shard -> the last reason.

        Returns:
            whether every failed shard was one of those, so that trying again makes sense.

        Raises:
            UserError: there are more of them than the config allows.
        """
        if any(reason != LOST and not reason.startswith(EngineBrokenError.__name__) for reason in failed.values()):
            return False
        self._note(f"the workers of {len(failed)} shards were lost in every round; looking for the texts that end them")
        places = max(1, find_places(self._need(1), self._note, by_hand=True))
        with ThreadPoolExecutor(places) as threads:
            found = dict(zip(failed, threads.map(self._killers, failed), strict=True))
        work = self._prepared()
        self._work = replace(work, left_out=work.left_out | found)
        return True

    def _killers(self, shard: int) -> list[int]:
        marker = self._pass.corpus.read_marker(shard)
        assert marker is not None, "the corpus is whole"
        chooser, num_texts = self._pass.rows, marker.rows("texts")
        rows = np.arange(num_texts) if chooser is None else chooser(shard, num_texts)
        prober = Prober(without_sample(self._prepared()), self._counter, self._size.resources)
        try:
            found = find_killers(lambda start, stop: prober.survives(shard, start, stop), len(rows), self._most)
        except TooManyFailedError as error:
            raise UserError(f"shard {shard}: {error}; {self._pass.config.accept_failed}") from None
        finally:
            prober.end()
        return [int(rows[position]) for position in found]


def reference_of(text_pass: TextPass, sample: pa.Table) -> Rewards:
    """What Transformers in float32 gives for sampled texts, see :func:`~pdray.engines.parity.reference_rewards`.

    Raises:
        UserError: a folder lacks weights, or its tokenizer does not know the words of the texts.
    """
    config, size = text_pass.config, actor_size(text_pass.config, living_nodes())
    if not len(sample):
        return np.empty((0, sum(output_counts(text_pass))), np.float32)
    return reference_rewards(
        sample,
        text_pass.models,
        [copy_key(folder) for folder in text_pass.models],
        text_pass.rule,
        config.max_unknown_tokens,
        engine_options(config, size, len(text_pass.models), text_pass.output),
        size.resources,
    )


def output_counts(text_pass: TextPass) -> list[int]:
    """Outputs of each model: one where log-probabilities are read, else the labels of a sequence classifier."""
    if text_pass.output == "logps":
        return [1] * len(text_pass.models)
    return [_label_count(folder) for folder in text_pass.models]


def _label_count(folder: StoragePath) -> int:
    # Transformers writes them only where there are not two.
    config = (folder / "config.json").read_json()
    return len(config.get("id2label") or range(config.get("num_labels", 2)))
