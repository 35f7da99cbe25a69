"""The table of a shard: rewards of every text, from an engine or from features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.engines.encode import TextFacts
from pdray.schema import TEXTS, scores_schema
from pdray.scoring.features import KnownRewards


@dataclass(frozen=True)
class RewardWriter:
    """A :class:`~pdray.engines.shards.ShardWriter`.

    Attributes:
        aspects: sorted.
        columns: the output of each aspect.
        known: rewards that need no engine, or None.
    """

    aspects: list[str]
    columns: list[int]
    known: KnownRewards | None = None

    def __call__(
        self, shard: int, rows: np.ndarray, outputs: np.ndarray, facts: TextFacts
    ) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """``texts`` by :func:`pdray.schema.scores_schema`, and facts that count every text of the shard."""
        if self.known is None:
            return self._finished(outputs, facts, 0, [])
        known_rows, rewards, num_tokens, truncated = self.known.read(shard)
        all_rows = np.concatenate([rows, known_rows])
        order = np.argsort(all_rows, kind="stable")
        assert (all_rows[order] == np.arange(len(order))).all(), f"shard {shard} lacks rows or has one twice"
        whole = TextFacts(
            np.concatenate([facts.num_tokens, num_tokens])[order],
            np.concatenate([facts.truncated, truncated])[order],
        )
        whole_outputs = np.concatenate([outputs, rewards])[order]
        return self._finished(whole_outputs, whole, len(known_rows), self.known.failed(shard))

    def _finished(
        self, outputs: np.ndarray, facts: TextFacts, reused: int, failed: list[list[Any]]
    ) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        used = outputs[:, self.columns]
        rewards = [pa.array(column, pa.float32()) for column in used.T]
        rest = [pa.array(facts.num_tokens, pa.int32()), pa.array(facts.truncated, pa.bool_())]
        counts = {
            "reused": reused,
            "truncated": int(facts.truncated.sum()),
            "non_finite": int((~np.isfinite(used)).sum()),
            "failed": failed,
        }
        return {TEXTS: pa.table([*rewards, *rest], schema=scores_schema(self.aspects))}, counts
