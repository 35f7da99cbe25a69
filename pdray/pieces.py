"""Preference divergence and the cut on what is at hand: arrays, an Arrow table, a Ray Data set; without a run.

Tables and data sets go through the passes of the selection stage, a block standing for a shard: the same ids are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from pdray.errors import UserError, user_errors
from pdray.selection import divergence as equations
from pdray.selection.blocks import (
    ASPECT,
    ID,
    PD,
    BlockMargins,
    BlockOrder,
    CountKept,
    aspects_of,
    kept_of,
    with_divergence,
)
from pdray.selection.cut import CountKeys, radix_cut
from pdray.selection.divergence import num_kept
from pdray.selection.quantiles import absolute_quantiles

if TYPE_CHECKING:
    from ray.data import Dataset


@overload
def preference_divergence(
    margins: np.ndarray, own: np.ndarray, gamma: float = ..., weights: Sequence[float] | None = ...
) -> np.ndarray: ...


@overload
def preference_divergence(
    margins: pa.Table | Dataset, own: None = ..., gamma: float = ..., weights: Mapping[str, float] | None = ...
) -> Any: ...


def preference_divergence(margins: Any, own: Any = None, gamma: float = 0.9, weights: Any = None) -> Any:
    """PD of pairs whose reward margins are at hand (eq. 13-15), as a run has it over its shards.

    Args:
        margins: (n, κ) float, chosen less rejected, of every aspect's reward model; NaN where not known. Or an Arrow
            table or a Ray Data set with the label ``aspect`` of each pair and ``margin.<aspect>`` of every aspect; in
            their place ``reward_chosen.<aspect>`` and ``reward_rejected.<aspect>``, as ``score_pairs`` gives them.
        own: (n,) int, index of the aspect that labelled the pair; of arrays only.
        gamma: γ, the quantile of an aspect's absolute margins on the pairs that it did not label, which scales to 1.
        weights: see ``selection.weights``; None is 1 for each. A number for each column of an array; aspect -> number
            otherwise.

    Returns:
        (n,) float64 in [−(κ−1), κ−1] where all weights are 1; NaN where a needed margin is. Of a table the same table
        with this as its column ``pd``; of a data set another one, whose blocks are read once here, for the quantiles,
        and again when it is consumed.

    Raises:
        UserError: shapes or columns that do not fit, a gamma outside (0, 1], or weights that are not one number of 0 or
            more for each aspect.
    """
    if not 0 < gamma <= 1:
        raise UserError(f"gamma is {gamma:g}, but has to be a quantile, above 0 and at most 1")
    if isinstance(margins, pa.Table) or _is_dataset(margins):
        return _of_pairs(margins, own, gamma, weights)
    values, labels = np.asarray(margins, np.float32), np.asarray(own)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise UserError(f"margins of shape {values.shape} and own of shape {labels.shape}; (n, κ) and (n,) are needed")
    if len(labels) and not 0 <= labels.min() <= labels.max() < values.shape[1]:
        raise UserError(f"own holds {labels.min()} to {labels.max()}, but there are {values.shape[1]} aspects, from 0")
    each = None if weights is None else _weights(weights)
    if each is not None and len(each) != values.shape[1]:
        raise UserError(f"weights holds {len(each)} numbers for {values.shape[1]} aspects; one for each is needed")
    scaled = []
    for aspect in range(values.shape[1]):
        sizes = np.sort(np.abs(values[(labels != aspect) & np.isfinite(values[:, aspect]), aspect]))
        quantile = float(sizes[equations.quantile_rank(gamma, len(sizes)) - 1]) if len(sizes) else float("nan")
        scaled.append(equations.scale_margins(values[:, aspect], quantile))
    return equations.preference_divergence(np.stack(scaled, axis=1), labels, each)


@overload
def select(divergence: np.ndarray, pair_ids: Sequence[str], budget: float) -> np.ndarray: ...


@overload
def select(divergence: pa.Table | Dataset, pair_ids: None = ..., budget: float = ...) -> Any: ...


def select(divergence: Any, pair_ids: Any = None, budget: float = 0.3) -> Any:
    """Which pairs are kept: the ⌊λn⌋ with the smallest divergence, ties by the smaller id; never one that is NaN.

    Args:
        divergence: (n,) float64. Or an Arrow table or a Ray Data set with ``pair_id`` and ``pd``.
        pair_ids: n ids, compared by their UTF-8 bytes; of arrays only.
        budget: λ in (0, 1].

    Returns:
        (n,) bool, as many as the budget or the finite ones are. Of a table or a data set the pairs that are kept, in
        their order; a data set's blocks are read once here, for the cut, and again when it is consumed.

    Raises:
        UserError: shapes or columns that do not fit, an id that stands twice, or a budget outside (0, 1].
    """
    if not 0 < budget <= 1:
        raise UserError(f"budget is {budget:g}, but has to be a share of the pairs, above 0 and at most 1")
    if isinstance(divergence, pa.Table) or _is_dataset(divergence):
        return _kept(divergence, pair_ids, budget)
    values = np.asarray(divergence, np.float64)
    if values.shape != (len(pair_ids),):
        raise UserError(f"divergence of shape {values.shape} for {len(pair_ids)} ids; one number for each is needed")
    finite = np.flatnonzero(np.isfinite(values)).tolist()
    kept = sorted(finite, key=lambda row: (values[row], pair_ids[row].encode()))[: num_kept(budget, len(values))]
    mask = np.zeros(len(values), bool)
    mask[kept] = True
    return mask


def _of_pairs(pairs: Any, own: Any, gamma: float, weights: Any) -> Any:
    if own is not None:
        raise UserError(f"own is for arrays; the labels of a table or a data set are its column {ASPECT}")
    names = _names(pairs)
    aspects, columns = aspects_of(names)
    if PD in names:
        raise UserError(f"the pairs have a column {PD} already; drop it, and it is made anew")
    if others := sorted(set(weights or {}) - set(aspects)):
        raise UserError(f"weights names {others[0]}, but there are margins of {', '.join(aspects)} only")
    each = _weights(weights.get(aspect, 1.0) for aspect in aspects) if weights else None
    blocks, _, run = _blocks(pairs, [ASPECT, *columns])
    quantiles = absolute_quantiles(BlockMargins(blocks, aspects), gamma, run)
    if isinstance(pairs, pa.Table):
        return with_divergence(pairs, quantiles, each)
    return pairs.map_batches(
        with_divergence, batch_format="pyarrow", fn_kwargs={"quantiles": quantiles, "weights": each}
    )


def _kept(pairs: Any, pair_ids: Any, budget: float) -> Any:
    if pair_ids is not None:
        raise UserError(f"pair_ids is for arrays; the ids of a table or a data set are its column {ID}")
    names = _names(pairs)
    if missing := [name for name in (ID, PD) if name not in names]:
        raise UserError(f"the pairs have no column {' and no '.join(missing)}; they have {', '.join(names) or 'none'}")
    blocks, rows, run = _blocks(pairs, [ID, PD])
    order = BlockOrder(blocks)
    first = run(CountKeys(order, 0, 0)).counts
    wanted = min(num_kept(budget, rows), int(first.sum()))
    cut = radix_cut(order, wanted, first, run) if wanted else None
    if cut is not None and (found := run(CountKept(order, cut))) != wanted:
        raise UserError(f"{found:,} pairs would be kept in place of {wanted:,}, because a {ID} stands there twice")
    if isinstance(pairs, pa.Table):
        return kept_of(pairs, cut)
    return pairs.map_batches(kept_of, batch_format="pyarrow", fn_kwargs={"cut": cut})


def _weights(numbers: Iterable[float]) -> list[float]:
    found = [float(number) for number in numbers]
    if wrong := [number for number in found if not 0 <= number < np.inf]:
        raise UserError(f"weights holds {wrong[0]:g}, but has to hold numbers of 0 or more")
    return found


def _is_dataset(pairs: Any) -> bool:
    return hasattr(pairs, "map_batches")


def _names(pairs: Any) -> list[str]:
    return list(pairs.column_names if isinstance(pairs, pa.Table) else pairs.columns() or [])


def _blocks(pairs: Any, columns: list[str]) -> tuple[list[Any], int, Callable[[Callable[[int], Any]], Any]]:
    """Some columns of pairs as blocks, their rows, and what adds up a pass over them: here, or in Ray tasks."""
    if isinstance(pairs, pa.Table):
        return [pairs.select(columns)], len(pairs), lambda work: work(0)
    from pdray.runtime.blocks import held_blocks
    from pdray.runtime.tasks import added_up

    blocks, rows = held_blocks(pairs.select_columns(columns))
    if not blocks:
        raise UserError("the data set has no pairs")

    def run(work: Callable[[int], Any]) -> Any:
        with user_errors():
            return added_up(work, len(blocks))

    return blocks, rows, run
