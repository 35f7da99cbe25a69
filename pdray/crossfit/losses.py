"""From log-probabilities of every fold's policy to one loss for each pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.crossfit.folds import Split
from pdray.engines.encode import TextFacts
from pdray.hashing import hash64
from pdray.runtime.tasks import SHARD_SECONDS
from pdray.schema import PAIRS, TEXTS, crossfit_schema, fold_logps_schema
from pdray.shards import Outcome, ShardedFolder, attempted


def validation_loss(policy: np.ndarray, reference: np.ndarray, beta: float) -> np.ndarray:
    """The loss of DPO of some pairs, −log σ(β((log π − log π_ref)(y_w) − (log π − log π_ref)(y_l))).

    Args:
        policy, reference: (2, n) log-probabilities of chosen and rejected responses, nats; NaN where not known.
        beta: β.

    Returns:
        (n,) float64; NaN where a log-probability is not finite.
    """
    with np.errstate(invalid="ignore"):
        ratio = policy.astype(np.float64) - reference.astype(np.float64)
        loss: np.ndarray = np.logaddexp(0.0, -beta * (ratio[0] - ratio[1]))
    known = np.isfinite(policy).all(axis=0) & np.isfinite(reference).all(axis=0)
    return np.where(known, loss, np.nan)


@dataclass(frozen=True)
class FoldLogps:
    """Makes the table of :func:`pdray.schema.fold_logps_schema`; a writer of ``TextPass``."""

    def __call__(
        self, shard: int, rows: np.ndarray, outputs: np.ndarray, facts: TextFacts
    ) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """The table, and no facts of its own."""
        columns = [pa.array(rows, pa.int32()), pa.array(outputs[:, 0], pa.float32())]
        return {TEXTS: pa.table(columns, schema=fold_logps_schema())}, {}


@dataclass(frozen=True)
class LossWriter:
    """Writes the mean validation loss of the pairs of a shard; picklable.

    Attributes:
        corpus: its pairs.
        reference: log-probabilities of every text under the untouched policy.
        judged: each split with the log-probabilities of its fold's texts.
        beta: β.
        target: the shards of the stage.
    """

    corpus: ShardedFolder
    reference: ShardedFolder
    judged: list[tuple[Split, ShardedFolder]]
    beta: float
    target: ShardedFolder

    def __call__(self, shard: int) -> Outcome:
        """Write a shard.

        Raises:
            UserError: a table is gone or damaged.
        """
        return attempted(shard, SHARD_SECONDS, self._write)

    def _write(self, shard: int) -> None:
        pairs = self.corpus.read(PAIRS, shard, ["pair_id", "chosen_row", "rejected_row"])
        rows = np.stack([pairs[f"{side}_row"].to_numpy() for side in ("chosen", "rejected")])
        reference = self.reference.read(TEXTS, shard)["logp"].to_numpy()
        repeats: dict[int, np.ndarray] = {}
        for split, folder in self.judged:
            policy = repeats.setdefault(split.repeat, np.full(len(reference), np.nan, np.float32))
            table = folder.read(TEXTS, shard)
            policy[table["row"].to_numpy()] = table["logp"].to_numpy()
        losses = [validation_loss(policy[rows], reference[rows], self.beta) for policy in repeats.values()]
        mean: np.ndarray = np.mean(losses, axis=0)
        finite = mean[np.isfinite(mean)]
        facts = {"finite": len(finite), "loss": float(finite.sum()), "right": int((finite < np.log(2)).sum())}
        table = pa.table([pairs["pair_id"].combine_chunks(), pa.array(mean)], schema=crossfit_schema())
        ids_sum = int(hash64(pairs["pair_id"].to_pylist()).sum(dtype=np.uint64))
        self.target.write(shard, {PAIRS: table}, ids_sum, facts)
