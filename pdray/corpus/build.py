"""The corpus as Ray work: check the rows, plan the shards, bring the rows of each missing shard together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.config import ScoresConfig
from pdray.corpus.check import PLACE, PROMPT_KEY, bad_responses, check_pairs, check_responses, pair_responses
from pdray.corpus.duplicates import SHARD, losers_across_shards, placed_schema
from pdray.corpus.exchange import gathered, map_blocks, map_rows, num_partitions
from pdray.corpus.plan import ShardPlan
from pdray.corpus.read import RawCorpus
from pdray.corpus.rows import RowRules
from pdray.corpus.summary import Summary, empty_summary, summarise
from pdray.corpus.write import ShardTask, write_shards
from pdray.errors import UserError, user_errors
from pdray.progress import Counter, Progress
from pdray.runtime import living, remote
from pdray.runtime.blocks import held_blocks
from pdray.shards import Outcome, ShardedFolder, error_text

RETRIES = 3
CPU_TEXTS, GPU_TEXTS = 2048, 16384


@dataclass(frozen=True)
class Checked:
    """The checked rows of a corpus, in Ray's object store.

    Attributes:
        blocks: references to blocks of the checked schema, none empty.
        responses: rows read and rows that repeat their prompt, where rows are responses.
    """

    blocks: list[Any]
    responses: list[int] | None = None


def check_rows(raw: RawCorpus, form: str, rules: RowRules, progress: Progress) -> Checked:
    """Read and check every row.

    Raises:
        UserError: a file cannot be read.
    """
    with user_errors(), progress.counting("checking rows") as counter:
        if form == "rated responses":
            return _check_responses(raw, rules, counter)
        kwargs = {"rules": rules, "rated": form == "rated pairs", "counter": counter}
        checked = [map_rows(dataset, check_pairs, **kwargs) for dataset in raw.datasets]
        return Checked(_blocks(_union(checked)))


def _check_responses(raw: RawCorpus, rules: RowRules, counter: Counter) -> Checked:
    checked = [map_rows(dataset, check_responses, rules=rules, counter=counter) for dataset in raw.datasets]
    blocks = _blocks(_union(checked))
    if not blocks:
        return Checked([], [0, 0])
    responses = _dataset(blocks)
    num_bytes = responses.size_bytes()
    by_prompt = gathered(responses, PROMPT_KEY, num_partitions(num_bytes, living("CPU")), num_bytes)
    pairs = map_blocks(by_prompt, pair_responses, rules=rules)
    bad = map_rows(responses, bad_responses, rules=rules)
    return Checked(_blocks(_union([pairs, bad])), [responses.count(), int(responses.sum("repeated_prompt") or 0)])


def _blocks(dataset: Any) -> list[Any]:
    return held_blocks(dataset)[0]


def _dataset(blocks: list[Any]) -> Any:
    import ray.data

    return ray.data.from_arrow_refs(blocks)


def _is_good() -> Any:
    from ray.data.expressions import col

    return col("reason").is_null()


def _union(datasets: list[Any]) -> Any:
    return datasets[0].union(*datasets[1:]) if len(datasets) > 1 else datasets[0]  # a union of one is refused by Ray


def summarise_rows(checked: Checked, aspects: list[str]) -> Summary:
    """The summary of all rows; the driver holds that of one block at a time."""
    import ray

    task = remote(summarise, max_retries=RETRIES)
    whole = empty_summary(len(aspects))
    for part in [task.remote(block, aspects) for block in checked.blocks]:
        whole = whole.merged(ray.get(part))
    return whole


def default_texts(scores: ScoresConfig) -> int:
    """Texts of a shard: a few minutes of work for an engine, on a GPU that may not be there yet."""
    return GPU_TEXTS if scores.gpus_per_actor else CPU_TEXTS


def write_missing(
    missing: Sequence[int],
    checked: Checked,
    plan: ShardPlan,
    rules: RowRules,
    shards: ShardedFolder,
    progress: Progress,
) -> Iterable[Outcome]:
    """Bring the rows of some shards together and write them; one attempt.

    Args:
        missing: the shards.
        checked: all rows of the corpus.
        plan: where they go.
        rules: of the corpus.
        shards: the stage's folder.
        progress: the user's progress line.

    Raises:
        UserError: the rows are not those that the plan was made for.
    """
    import ray.data

    wanted = pa.array(missing, pa.int32())
    parts = [ray.data.from_arrow(_heralds(wanted, rules))]
    num_bytes = 0
    if checked.blocks:
        rows = _dataset(checked.blocks)
        _require_rows(rows.count(), plan, shards)
        num_bytes = rows.size_bytes()
        parts.append(map_rows(rows, place_rows, plan=plan, rules=rules, shards=wanted))
        if plan.given_ids and plan.num_shards > 1:
            placed = map_rows(rows, place_rows, plan=plan, rules=rules, shards=None)
            with user_errors():
                losers = _blocks(losers_across_shards(placed, rules, wanted, plan.rows))
            parts += [_dataset(losers)] if losers else []
    spans = np.array([plan.spans[aspect] for aspect in sorted(rules.ratings)])
    partitions = min(len(missing), num_partitions(num_bytes, living("CPU")))
    with progress.counting("writing shards", len(missing), "shards") as counter:
        task = ShardTask(shards, rules, spans, counter)
        by_shard = gathered(_union(parts), SHARD, partitions, num_bytes)
        written = map_blocks(by_shard, write_shards, task=task)
        try:
            with user_errors():
                return [Outcome(row["shard"], row["error"]) for row in written.take_all()]
        except ray.exceptions.RayError as error:  # the shards that were finished by then are kept
            return [Outcome(shard, error_text(error)) for shard in missing]


def _require_rows(num_rows: int, plan: ShardPlan, shards: ShardedFolder) -> None:
    if num_rows != plan.rows:
        raise UserError(
            f"the input has {num_rows:,} rows and had {plan.rows:,} when this corpus was begun; delete {shards.folder} "
            "and run again"
        )


def place_rows(rows: pa.Table, plan: ShardPlan, rules: RowRules, shards: pa.Array | None) -> pa.Table:
    """Rows of the checked schema with their ``shard``; of some shards only, where these are given."""
    found = plan.shards_of(rows[PLACE].to_numpy(), rows["pair_id"].to_pylist())
    placed = rows.append_column(SHARD, pa.array(found, pa.int32())).cast(placed_schema(rules))
    return placed if shards is None else placed.filter(pc.is_in(placed[SHARD], shards))


def _heralds(shards: pa.Array, rules: RowRules) -> pa.Table:
    """A row for each shard that is no row of the corpus: a shard without any is written too."""
    schema = placed_schema(rules)
    return pa.table([*[pa.nulls(len(shards), field.type) for field in schema][:-1], shards], schema=schema)
