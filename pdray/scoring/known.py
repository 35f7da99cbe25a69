"""Shards whose texts all have features: no engine is loaded, plain Ray tasks write the rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pdray import metrics
from pdray.engines.encode import TextFacts
from pdray.engines.parity import Figures, compare, require_parity, take_sample
from pdray.engines.pool import reference_of
from pdray.engines.shards import PassResult, TextPass
from pdray.errors import UserError
from pdray.runtime import remote
from pdray.schema import FEATURES, TEXTS
from pdray.scoring.features import KnownRewards, WithFeatures
from pdray.shards import Outcome, ShardedFolder, deadline, error_text, run_rounds

PARITY = "parity-features.parquet"
TASK_RETRIES = 2


def covers_all(known: KnownRewards, corpus: ShardedFolder) -> bool:
    """Whether every text of the corpus has features."""
    texts, features = corpus.done(), known.features.done()
    return all(
        shard in features and features[shard].rows(FEATURES) == marker.rows(TEXTS) for shard, marker in texts.items()
    )


def check_known(text_pass: TextPass, known: KnownRewards) -> Figures | None:
    """Compare rewards from features with those that Transformers in float32 gives for some of the texts.

    Writes ``parity-features.parquet``. None where no text has features.

    Raises:
        UserError: they differ by more than the config accepts.
    """
    sample = take_sample(text_pass.corpus, WithFeatures(known), text_pass.config.parity_rows)
    if not len(sample):
        return None
    parity = compare(sample, _rewards_of(sample, known), reference_of(text_pass, sample), text_pass.labels)
    (text_pass.target.folder / PARITY).write_table(parity)
    return require_parity(parity, sample["prompt"].to_pylist(), text_pass.config)


def _rewards_of(sample: pa.Table, known: KnownRewards) -> np.ndarray:
    """(texts, outputs) float32 of sampled texts, each shard read in a Ray task."""
    import ray

    shards, rows = sample["shard"].to_numpy(), sample["row"].to_numpy()
    task = remote(_rewards_at, num_cpus=0.1)
    distinct = np.unique(shards).tolist()
    parts = ray.get([task.remote(known, shard, rows[shards == shard]) for shard in distinct])
    rewards = np.empty((len(rows), parts[0].shape[1]), np.float32)
    for shard, part in zip(distinct, parts, strict=True):
        rewards[shards == shard] = part
    return rewards


def _rewards_at(known: KnownRewards, shard: int, wanted: np.ndarray) -> np.ndarray:
    rows, rewards, _, _ = known.read(shard)
    return np.asarray(rewards[np.searchsorted(rows, wanted)])


def run_known(text_pass: TextPass, width: int, note: Callable[[str], None]) -> PassResult:
    """Write the shards of a pass whose rows are all known.

    Args:
        text_pass: the pass.
        width: outputs of its models.
        note: tells the user.
    """
    import ray

    task = remote(_write, num_cpus=1, max_retries=TASK_RETRIES)

    def attempt(shards: Sequence[int]) -> Iterator[Outcome]:
        pending = [task.remote(text_pass, width, shard) for shard in shards]
        while pending:
            (ready,), pending = ray.wait(pending, num_returns=1)
            try:
                shard, error, refusal, pairs = ray.get(ready)
            except ray.exceptions.RayError:
                continue  # a shard that is not mentioned is taken by the next round
            if refusal:
                raise UserError(refusal)
            metrics.count(metrics.PAIRS, pairs)
            yield Outcome(shard, error)

    return PassResult(run_rounds(text_pass.target, attempt, note), 0.0, 0, 0, None, 0)


def _write(text_pass: TextPass, width: int, shard: int) -> tuple[int, str | None, str | None, int]:
    none = TextFacts(np.empty(0, np.int32), np.empty(0, bool))
    began = time.monotonic()
    try:
        with deadline(text_pass.config.step_timeout):
            marker = text_pass.corpus.read_marker(shard)
            assert marker is not None, "the corpus is whole"
            outputs = np.empty((0, width), np.float32)
            tables, facts = text_pass.write(shard, np.empty(0, np.int64), outputs, none)
            counts = {"texts": 0, "tokens": 0, "seconds": round(time.monotonic() - began, 3)}
            text_pass.target.write(shard, tables, marker.ids_sum, counts | facts)
    except UserError as error:
        return shard, None, str(error), 0
    except Exception as error:
        return shard, error_text(error), None, 0
    return shard, None, None, marker.rows("pairs")
