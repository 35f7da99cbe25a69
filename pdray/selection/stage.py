"""The selection stage: margins, quantiles, preference divergence, global cut, and the text joined back.

selection-<hash8>/
  selection/*.parquet    kept pairs: pair_id, pd, rank (from 1), margin.<aspect> (scaled, null for the own aspect)
  rest/*.parquet         the other pairs, same columns: every pair with a divergence is in one of the two
  kept/*.parquet         kept pairs with their text in TRL's preference format
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pdray.config import RunConfig, fingerprinted
from pdray.errors import UserError
from pdray.selection.cut import SortedBlock, sorted_blocks
from pdray.selection.divergence import num_kept, preference_divergence, reward_margins, scale_margins
from pdray.selection.quantiles import absolute_quantiles
from pdray.selection.strategies import random_keys, sort_key
from pdray.stages import StageContext, StageResult
from pdray.survey import survey_ids

TRL_COLUMNS = ["pair_id", "prompt", "chosen", "rejected", "aspect"]


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the selection: its section and the seed."""
    return fingerprinted(config.selection) | {"seed": config.seed}


def check(config: RunConfig, manifests: dict[str, dict[str, Any]]) -> None:
    """Refuse a budget that keeps nothing as soon as the number of pairs is known.

    Raises:
        UserError: ⌊λN⌋ is 0.
    """
    rows = manifests["corpus"]["rows_out"] if "corpus" in manifests else None
    if rows is not None and num_kept(config.selection.budget, rows) == 0:
        raise UserError(
            f"selection.budget {config.selection.budget} of {rows:,} pairs keeps none; "
            f"set it to at least {_smallest_budget(rows)} or give more pairs"
        )


def _smallest_budget(rows: int) -> float:
    """A budget of few digits that keeps at least one of the rows."""
    digits = len(str(rows)) + 1
    return float(math.ceil(10**digits / rows) / 10**digits)


def run(ctx: StageContext) -> StageResult:
    """Select the pairs.

    Raises:
        UserError: the scores are not those of the corpus, or fewer pairs have a finite divergence than the budget
            asks for.
    """
    rows = ctx.manifests["corpus"]["rows_out"]
    require_whole_scores(ctx.inputs["scores"], ctx.inputs["corpus"], rows)
    aspects = ctx.manifests["proxies"]["metrics"]["aspects"]
    penalties = {aspect: aspects[aspect]["length_penalty"] for aspect in sorted(aspects)}
    wanted = num_kept(ctx.config.selection.budget, rows)
    with ctx.progress.counting("margins", total=rows) as counter:
        margins, quantiles = read_margins(str(ctx.inputs["scores"] / "scores"), penalties, ctx.config, counter)
    with ctx.progress.counting("sorting by divergence", total=rows) as counter:
        blocks = sort_pairs(margins, quantiles, ctx.config, counter)
        finite = sum(block.rows for block in blocks)
    if finite < wanted:
        raise UserError(
            f"only {finite:,} of {rows:,} pairs have a finite divergence but selection.budget asks for {wanted:,}; "
            "look at the proxies' rewards, or lower the budget"
        )
    parts = write_selection(blocks, wanted, ctx.config, ctx.folder)
    ids = kept_ids(ctx.folder)
    with ctx.progress.counting("joining text", total=wanted) as counter:
        write_kept(ctx.inputs["corpus"] / "pairs", ids, ctx.folder / "kept", counter)
    return StageResult(
        rows_in=rows,
        rows_out=wanted,
        dropped={"over the budget": finite - wanted, "divergence not finite": rows - finite},
        metrics={
            "strategy": ctx.config.selection.strategy,
            "budget": ctx.config.selection.budget,
            "rows": wanted,
            "cut_pd": next(part["cut_pd"] for part in parts if part["cut_pd"] is not None),
            "ids_sha256": ids_sha256(ids),
            # JSON has no NaN: the quantile of an aspect without a finite margin is null.
            "quantiles": {aspect: q if math.isfinite(q) else None for aspect, q in quantiles.items()},
            "conflict": conflict_shares(parts),
        },
        notes=[f"{rows - finite:,} pairs have no finite divergence and were left out"] if finite < rows else [],
    )


def require_whole_scores(scores: Path, corpus: Path, rows: int) -> None:
    """Refuse scores that lost rows since they were written, or that belong to other pairs.

    Args:
        scores, corpus: the stage folders.
        rows: pairs of the corpus.

    Raises:
        UserError: the ``pair_id`` of the scores are not exactly those of the corpus.
    """
    scored = survey_ids(scores / "scores")
    again = f"delete {scores} and run again, they are scored anew"
    if scored.rows < rows:
        raise UserError(f"{rows - scored.rows:,} of {rows:,} rows are missing in {scores}; {again}")
    if scored.rows > rows:
        raise UserError(f"{scores} holds {scored.rows:,} rows for {rows:,} pairs; {again}")
    if scored.ids_sum != survey_ids(corpus / "pairs").ids_sum:
        raise UserError(f"{scores} holds the scores of other pairs than {corpus}; {again}")


def read_margins(
    scores: str, penalties: dict[str, float], config: RunConfig, counter: Any
) -> tuple[Any, dict[str, float]]:
    """Margins of all scored pairs and their quantiles.

    Args:
        scores: folder of the scores' parquet files.
        penalties: aspect -> ρ that its margin subtracts.
        config: the run; γ is read.
        counter: counts the rows read.

    Returns:
        a Ray Data set of what :func:`add_margins` returns, and aspect -> q of eq. 13.
    """
    import ray.data

    margins = (
        ray.data.read_parquet(scores, partitioning=None)
        .map_batches(add_margins, batch_format="pyarrow", fn_kwargs={"penalties": penalties, "counter": counter})
        .materialize()
    )
    columns = [f"margin.{aspect}" for aspect in penalties]
    quantiles = absolute_quantiles(margins.to_arrow_refs(), columns, config.selection.gamma)
    return margins, {aspect: quantiles[f"margin.{aspect}"] for aspect in penalties}


def sort_pairs(margins: Any, quantiles: dict[str, float], config: RunConfig, counter: Any) -> list[SortedBlock]:
    """Divergence and global order of all pairs.

    Args:
        margins: from :func:`read_margins`.
        quantiles: aspect -> q of eq. 13.
        config: the run; the strategy and the seed are read.
        counter: counts the rows that stand in their place.

    Returns:
        the blocks in order of the strategy's key; pairs without a finite PD are in none.
    """
    ranked = margins.map_batches(
        add_divergence,
        batch_format="pyarrow",
        fn_kwargs={"quantiles": quantiles, "strategy": config.selection.strategy, "seed": config.seed},
    )
    blocks = sorted_blocks(ranked, "key")
    counter.add(sum(block.rows for block in blocks))
    return blocks


def add_margins(scores: pa.Table, penalties: dict[str, float], counter: Any) -> pa.Table:
    """``pair_id``, ``aspect``, ``conflict`` where known, and ``margin.<aspect>`` (float32, NaN where not scored)."""
    names = [name for name in ("pair_id", "aspect", "conflict") if name in scores.column_names]
    table = scores.select(names)
    for aspect, penalty in penalties.items():
        margins = reward_margins(
            scores[f"reward_chosen.{aspect}"].to_numpy(),
            scores[f"reward_rejected.{aspect}"].to_numpy(),
            scores["len_chosen"].to_numpy(),
            scores["len_rejected"].to_numpy(),
            penalty,
        )
        table = table.append_column(f"margin.{aspect}", pa.array(margins))
    counter.add(len(table))
    return table


def add_divergence(table: pa.Table, quantiles: dict[str, float], strategy: str, seed: int) -> pa.Table:
    """Scale the margins, add ``pd`` and the sort ``key``; rows whose PD is not finite are left out."""
    aspects = list(quantiles)
    scaled = np.stack([scale_margins(table[f"margin.{a}"].to_numpy(), quantiles[a]) for a in aspects], axis=1)
    labels = table["aspect"].to_pylist()
    own = np.array([aspects.index(label) for label in labels], dtype=np.int64)
    scaled[np.arange(len(own)), own] = np.nan
    divergence = preference_divergence(scaled, own)
    columns: dict[str, Any] = {
        "pair_id": table["pair_id"],
        "pd": divergence,
        "key": sort_key(strategy, divergence, table["pair_id"].to_pylist(), seed),
    }
    if "conflict" in table.column_names:
        columns["conflict"] = table["conflict"]
    for index, aspect in enumerate(aspects):
        values = scaled[:, index].astype(np.float32)
        columns[f"margin.{aspect}"] = pa.array(values, mask=np.isnan(values))
    return pa.table(columns).filter(pa.array(np.isfinite(divergence)))


def write_selection(blocks: list[SortedBlock], wanted: int, config: RunConfig, folder: Path) -> list[dict[str, Any]]:
    """Write ``selection/`` and ``rest/`` and return each block's part of the figures."""
    import ray

    for name in ("selection", "rest", "kept"):
        (folder / name).mkdir()
    task = ray.remote(_write_block)
    share = config.selection.budget
    parts: list[dict[str, Any]] = ray.get(
        [
            task.remote(block.ref, index, block.offset, wanted, share, config.seed, str(folder))
            for index, block in enumerate(blocks)
        ]
    )
    return parts


def _write_block(
    block: pa.Table, index: int, offset: int, wanted: int, share: float, seed: int, folder: str
) -> dict[str, Any]:
    rank = np.arange(offset + 1, offset + 1 + len(block), dtype=np.int64)
    kept = int(np.clip(wanted - offset, 0, len(block)))
    margins = [name for name in block.column_names if name.startswith("margin.")]
    table = block.select(["pair_id", "pd", *margins]).add_column(2, "rank", pa.array(rank))
    for name, part in (("selection", table[:kept]), ("rest", table[kept:])):
        if len(part):
            pq.write_table(part, f"{folder}/{name}/part-{index:05}.parquet")
    holds_cut = offset < wanted <= offset + len(block)
    figures: dict[str, Any] = {"cut_pd": block["pd"][kept - 1].as_py() if holds_cut else None}
    if "conflict" in block.column_names:
        drawn = random_keys(np.empty(0), block["pair_id"].to_pylist(), seed) < share
        masks = {"all": rank > 0, "kept": rank <= wanted, "random": drawn}
        figures["conflict"] = {name: _tally(block["conflict"], mask) for name, mask in masks.items()}
    return figures


def _tally(conflict: pa.ChunkedArray, mask: np.ndarray) -> tuple[int, int]:
    known = conflict.filter(pa.array(mask)).drop_null()
    return pc.sum(known).as_py() or 0, len(known)


def conflict_shares(parts: list[dict[str, Any]]) -> dict[str, float] | None:
    """Share of conflicts among all pairs, the kept ones and a seeded random draw of about the same size.

    Returns:
        None where the corpus has no true ratings.
    """
    tallies = [part["conflict"] for part in parts if "conflict" in part]
    if not tallies or not sum(tally["all"][1] for tally in tallies):
        return None
    totals = {name: np.sum([tally[name] for tally in tallies], axis=0) for name in tallies[0]}
    return {name: float(found / known) for name, (found, known) in totals.items() if known}


def kept_ids(folder: Path) -> pa.Array:
    """Ids of the selected pairs, sorted."""
    ids = pads.dataset(folder / "selection").to_table(columns=["pair_id"])["pair_id"].combine_chunks()
    return ids.take(pc.sort_indices(ids))


def ids_sha256(ids: pa.Array) -> str:
    """sha256 of the sorted ids, each followed by a newline."""
    hasher = hashlib.sha256()
    for start in range(0, len(ids), 100_000):
        hasher.update("".join(f"{text}\n" for text in ids[start : start + 100_000].to_pylist()).encode())
    return hasher.hexdigest()


def write_kept(pairs: Path, ids: pa.Array, folder: Path, counter: Any) -> None:
    """Write the kept pairs with their text, in TRL's preference format."""
    import ray.data

    kept = ray.put(ids)
    (
        ray.data.read_parquet(str(pairs), partitioning=None)
        .select_columns(TRL_COLUMNS)
        .map_batches(_keep, batch_format="pyarrow", batch_size=None, fn_kwargs={"kept": [kept], "counter": counter})
        .write_parquet(str(folder))
    )
    written = sum(fragment.count_rows() for fragment in pads.dataset(folder).get_fragments())
    assert written == len(ids), f"{written} pairs joined for {len(ids)} selected"


def _keep(pairs: pa.Table, kept: list[Any], counter: Any) -> pa.Table:
    import ray

    found = pairs.filter(pc.is_in(pairs["pair_id"], value_set=ray.get(kept[0])))
    counter.add(len(found))
    return found
