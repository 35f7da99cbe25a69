"""All questions to a judge behind an API: both orders of every comparison, part by part, some at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pdray.config import EndpointConfig
from pdray.errors import UserError
from pdray.evaluation.endpoint import QUESTION, Endpoint, Reply
from pdray.evaluation.parts import Parts, key_of, shared_parts
from pdray.evaluation.winrate import Verdict
from pdray.stages import StageContext

COMPARISONS_PER_PART = 8  # what a kill may cost, times the parts under way

Comparison = tuple[Any, str, str]  # prompt, answer of the policy, answer of the baseline
SCHEMA = pa.schema([("policy_first", pa.string()), ("baseline_first", pa.string())])


@dataclass
class Verdicts:
    """What a judge said.

    Attributes:
        pairs: of each comparison, the verdict where A was the policy's answer and where A was the baseline's; None for
            one that did not come.
        reasons: why verdicts did not come, with how many.
        asked: questions that this process asked.
    """

    pairs: list[tuple[Verdict | None, Verdict | None]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    asked: int = 0


def ask_all(
    ctx: StageContext, name: str, judge: EndpointConfig, comparisons: list[Comparison], max_failed: float
) -> Verdicts:
    """The verdicts of a judge on all comparisons; those that an earlier evaluation of the run left are taken.

    Two answers that are the same tie, and nobody is asked.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        name: of the judge.
        judge: its settings.
        comparisons: to be judged.
        max_failed: largest share of the questions that may stay without a verdict.

    Raises:
        UserError: the key is refused, there is no such model, or more questions than that stay without a verdict.
    """
    asker = _Asker(name, judge, shared_parts(ctx.run, "verdicts"), max_failed)
    with ctx.progress.counting_here(f"verdicts of {name}", 2 * len(comparisons), "questions") as counter:
        try:
            return _awaited(asker.all(comparisons, counter))
        except ExceptionGroup as group:
            mendable, _ = group.split(UserError)
            if mendable is None:
                raise
            raise mendable.exceptions[0] from None


def _awaited(coroutine: Coroutine[Any, Any, Verdicts]) -> Verdicts:
    """What it returns, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class _Asker:
    def __init__(self, name: str, judge: EndpointConfig, store: Parts, max_failed: float) -> None:
        self._name, self._judge, self._store, self._max_failed = name, judge, store, max_failed
        self._found, self._questions = Verdicts(), 0
        self._slots = asyncio.Semaphore(judge.concurrency)
        # No more parts than keep the slots busy, so that those under way are few.
        self._parts = asyncio.Semaphore(2 + judge.concurrency // (2 * COMPARISONS_PER_PART))

    async def all(self, comparisons: list[Comparison], counter: Any) -> Verdicts:
        endpoint = Endpoint(self._name, self._judge)
        self._questions = 2 * len(comparisons)
        starts = range(0, len(comparisons), COMPARISONS_PER_PART)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._part(endpoint, comparisons[start : start + COMPARISONS_PER_PART], counter))
                    for start in starts
                ]
        finally:
            await endpoint.close()
        self._found.pairs = [pair for task in tasks for pair in task.result()]
        return self._found

    async def _part(
        self, endpoint: Endpoint, part: list[Comparison], counter: Any
    ) -> list[tuple[Verdict | None, Verdict | None]]:
        async with self._parts:
            key = key_of(*self._judge.decisive, QUESTION, part)
            table = self._store.read(key)
            known = SCHEMA.empty_table() if table is None else table
            rows: list[dict[str, Any]] = known.to_pylist() or [dict.fromkeys(SCHEMA.names) for _ in part]
            places = [(row, order) for row in range(len(part)) for order in SCHEMA.names if rows[row][order] is None]
            replies = await asyncio.gather(*(self._reply(endpoint, part[row], order) for row, order in places))
            for (row, order), reply in zip(places, replies, strict=True):
                rows[row][order] = reply.verdict
            if any(reply.verdict for reply in replies):
                self._store.write(key, pa.Table.from_pylist(rows, schema=SCHEMA))
            counter.add(2 * len(part))
        return [(row["policy_first"], row["baseline_first"]) for row in rows]

    async def _reply(self, endpoint: Endpoint, comparison: Comparison, order: str) -> Reply:
        prompt, policy, baseline = comparison
        if policy == baseline:
            return Reply("tie")
        answers = (policy, baseline) if order == "policy_first" else (baseline, policy)
        async with self._slots:
            reply = await endpoint.ask(prompt, *answers)
        self._found.asked += 1
        if reply.verdict is None:
            self._found.reasons[reply.reason] += 1
            if self._found.reasons.total() / self._questions > self._max_failed:
                raise UserError(
                    f"evaluation.endpoints.{self._name} has left {self._found.reasons.total()} questions without a "
                    f"verdict, more than evaluation.max_failed accepts ({reply.reason}); mend the server or the "
                    "settings and run again, which asks what is open alone, or raise max_failed"
                )
        return reply
