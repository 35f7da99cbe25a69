"""The selection stage: quantiles, preference divergence and the exact cut, by passes over narrow columns of shards.

selection-<hash8>/
  pairs/shard-*.parquet    every pair of the corpus, row-aligned: pair_id, pd, kept, margin.<aspect>
  kept/shard-*.parquet     the kept pairs with their text in TRL's preference format
  ranked/*.parquet         pair_id, pd and rank from 1, of the kept pairs or of all (selection.rank)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from pdray.aspects import UNIFIED
from pdray.config import RunConfig, SelectionConfig, fingerprinted
from pdray.errors import UserError, user_errors
from pdray.runtime.tasks import outcomes, sum_over_shards
from pdray.schema import PAIRS, TEXTS, CorpusOutput, SelectionOutput
from pdray.selection.auroc import CountConflicts, auroc, largest_divergence
from pdray.selection.check import check, find_strategy
from pdray.selection.cut import CountAround, CountGroups, CountKeys, Cut, GroupCuts, RowsAround, radix_cut
from pdray.selection.divergence import num_kept
from pdray.selection.groups import BY, in_order, shared_out
from pdray.selection.guess import guess
from pdray.selection.kept import KeptWriter, add_facts
from pdray.selection.order import Ordering, PairSource, RatingSource
from pdray.selection.quantiles import absolute_quantiles
from pdray.selection.ranks import FOLDER as RANKS
from pdray.selection.ranks import cut_by_position, sorted_pairs, write_ranks
from pdray.selection.shared import Shared, read_shared, shared_path, write_shared
from pdray.selection.statistics import find_statistics
from pdray.selection.strategies import origin
from pdray.shards import CONTENT, VERIFY_THREADS, Outcome, ShardedFolder, run_rounds
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath
from pdray.store import fingerprint

VERSION = 7


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the selection: its section and the seed, and the package that a plugin's strategy comes from."""
    package = origin(config.selection.strategy)
    return fingerprinted(config.selection) | {"seed": config.seed} | ({"package": package} if package else {})


def reads_also(config: RunConfig) -> tuple[str, ...]:
    """The log-probabilities or the cross-fitted losses, for a strategy that reads them."""
    strategy = find_strategy(config.selection.strategy)
    logprobs = ("logprobs",) if config.logprobs is not None and strategy.logps else ()
    return (*logprobs, "crossfit") if strategy.crossfit and config.crossfit is not None else logprobs


def run(ctx: StageContext) -> StageResult:
    """Select the pairs.

    Raises:
        UserError: the scores are not those of the corpus, or fewer pairs have a finite divergence than the budget
            asks for.
    """
    corpus, selection = ctx.upstream.corpus, ctx.config.selection
    assert corpus is not None
    strategy = find_strategy(selection.strategy)
    source = pair_source(ctx.upstream)
    if strategy.margins == "ratings":
        source = RatingSource(**vars(source) | {"penalties": dict.fromkeys(corpus.rated, 0.0)})
    shared, rows = find_shared(ctx, source)
    order = ordering(ctx, source, shared.quantiles, shared.statistics)
    finite = int(shared.counts.sum())
    wanted = finite if strategy.keeps_all else num_kept(selection.budget, corpus.pairs)
    needed = "divergence and log-probabilities" if strategy.logps else "divergence"
    needed = "divergence and validation loss" if strategy.crossfit else needed
    if strategy.label is not None:
        needed = f"divergence and {'overall label' if strategy.label_of == 'overall' else 'mean rating'} but equal"
    if finite < max(wanted, 1):
        raise UserError(
            f"only {finite:,} of {corpus.pairs:,} pairs have a finite {needed} but selection.budget asks for "
            f"{max(wanted, 1):,}; look at the numbers of the stages before, or lower the budget"
        )
    found = rows.cut(wanted) if rows is not None else None
    cut: Cut | GroupCuts = found if found is not None else find_cut(ctx, order, wanted, shared)
    figures = write_shards(ctx, order, cut, corpus)
    assert (figures["kept"], figures["finite"]) == (wanted, finite), f"{figures} for {wanted} of {finite} pairs"
    ranked = 0
    if selection.rank != "none":
        ranked = write_ranks(sorted_pairs(order, cut if selection.rank == "kept" else None), ctx.folder)
        assert ranked == (wanted if selection.rank == "kept" else finite), f"{ranked} ranks"
    not_finite = corpus.pairs - finite
    weights = aspect_weights(selection, source)
    return StageResult(
        output=SelectionOutput(corpus.num_shards, wanted, corpus.conversational, weights),
        rows_in=corpus.pairs,
        rows_out=wanted,
        dropped={"over the budget": finite - wanted, f"{needed} not finite": not_finite},
        metrics={
            "strategy": selection.strategy,
            "budget": selection.budget,
            "rows": wanted,
            "ranked": ranked,
            "cut_pd": figures["cut_pd"],
            "ids_digest": figures["ids_digest"],
            "quantiles": _finite(shared.quantiles),
            "statistics": _finite(shared.statistics),
            **({"relabelled": figures["relabelled"]} if strategy.label is not None else {}),
            "conflict": figures["conflict"],
            "auroc": area_under_roc(ctx, source, weights) if corpus.rated else None,
            "kept_per_aspect": figures["kept_per_aspect"],
            "chosen_longer": figures["chosen_longer"],
            **{(name := f"share_by_{by}"): figures[name] for by in BY},
        },
        notes=[f"{not_finite:,} pairs have no finite {needed} and were left out"] if not_finite else [],
    )


def area_under_roc(ctx: StageContext, source: PairSource, weights: dict[str, float]) -> float | None:
    """How often the divergence puts a pair in true conflict above one without; None where there are none of either."""
    counts = sum_over_shards(
        CountConflicts(source.corpus, ctx.shards(source.num_shards), largest_divergence(weights)),
        source.num_shards,
        ctx.progress,
        "conflicts",
    )
    found = auroc(*counts)
    return None if found is None else round(found[0], 4)


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN: the quantile of an aspect without a finite margin is null.
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def pair_source(upstream: Upstream) -> PairSource:
    """The pairs and their rewards.

    Raises:
        UserError: shards of the scores or log-probabilities are gone, or are not those of the corpus.
    """
    corpus, scores = upstream.shards("corpus"), upstream.shards("scores")
    logprobs = upstream.shards("logprobs") if upstream.logprobs is not None else None
    assert upstream.corpus is not None and upstream.proxies is not None and upstream.scores is not None
    of_corpus = _of_markers(corpus)
    contents: list[str | None] = []
    for other in (scores, *([logprobs] if logprobs is not None else [])):
        of_other = _of_markers(other)
        contents += of_other.contents
        if of_other.texts != of_corpus.texts:
            raise UserError(f"{other.folder} does not hold one row for each text of {corpus.folder}; run again")
    crossfit = upstream.shards("crossfit") if upstream.crossfit is not None else None
    if crossfit is not None and _of_markers(crossfit).pairs != of_corpus.pairs:
        raise UserError(f"{crossfit.folder} does not hold one row for each pair of {corpus.folder}; run again")
    found = sum(of_corpus.pairs)
    if found != upstream.corpus.pairs:
        raise UserError(f"{corpus.folder} holds {found:,} pairs instead of {upstream.corpus.pairs:,}; run again")
    penalties = {aspect: upstream.proxies.length_penalty[aspect] for aspect in upstream.corpus.aspects}
    unified = upstream.proxies.length_penalty.get(UNIFIED)
    content = fingerprint(contents) if any(contents) else ""
    return PairSource(corpus, scores, penalties, logprobs, unified, crossfit, content)


class _OfMarkers(NamedTuple):
    """Of each shard, in order: rows of two of its tables, and the digest of its numbers where it has one."""

    texts: tuple[int, ...]
    pairs: tuple[int, ...]
    contents: tuple[str | None, ...]


def _of_markers(shards: ShardedFolder) -> _OfMarkers:
    def stated(shard: int) -> tuple[int, int, str | None]:
        marker = shards.read_marker(shard)
        if marker is None:
            raise UserError(f"shard {shard} of {shards.folder} is missing or was made by another run; run again")
        return marker.rows(TEXTS), marker.rows(PAIRS), marker.facts.get(CONTENT)

    with ThreadPoolExecutor(VERIFY_THREADS) as pool:
        return _OfMarkers(*zip(*pool.map(stated, range(shards.num_shards)), strict=True))


def find_shared(ctx: StageContext, source: PairSource) -> tuple[Shared, RowsAround | None]:
    """Quantiles, statistics and the first count of the keys, from an earlier budget of this run where there was one.

    Returns:
        those, and the pairs around the likely place of the cut where a pass over all pairs was made.
    """
    selection, shards = ctx.config.selection, source.num_shards
    decided = {name: value for name, value in settings(ctx.config).items() if name not in ("budget", "rank")}
    # Scores that were lost and made again on another machine may differ in their last digits, and then the first count.
    key = fingerprint([VERSION, decided, ctx.upstream.fingerprints, *([source.content] if source.content else [])])
    path = shared_path(ctx.run, key)
    shared = read_shared(path, key)
    if shared is not None:
        return shared, None
    run_pass = partial(sum_over_shards, num_shards=shards, progress=ctx.progress)
    quantiles = absolute_quantiles(source, selection.gamma, partial(run_pass, what="quantiles"))
    statistics = find_statistics(ordering(ctx, source, quantiles), partial(run_pass, what="statistics"))
    order = ordering(ctx, source, quantiles, statistics)
    one_cut = selection.quota is None and selection.method == "radix"
    bracket = guess(order.bits(0), selection.budget, shards) if one_cut else None
    if bracket is None:
        counts, rows = run_pass(CountKeys(order, 0, 0), what="divergence").counts, None
    else:
        rows = run_pass(CountAround(order, bracket), what="divergence")
        counts = rows.digits.counts
    shared = Shared(quantiles, counts, statistics)
    write_shared(path, key, shared)
    return shared, rows


def ordering(
    ctx: StageContext, source: PairSource, quantiles: dict[str, float], statistics: dict[str, float] | None = None
) -> Ordering:
    """How the strategy orders the pairs of this run."""
    selection = ctx.config.selection
    weights = tuple(aspect_weights(selection, source).values()) if selection.weights else None
    statistics = statistics or {}
    return Ordering(source, quantiles, selection.strategy, ctx.config.seed, weights, statistics, quota=selection.quota)


def aspect_weights(selection: SelectionConfig, source: PairSource) -> dict[str, float]:
    """Aspect -> weight of its margin, of every aspect in the order of the penalties."""
    return {aspect: selection.weights.get(aspect, 1.0) for aspect in source.penalties}


def find_cut(ctx: StageContext, order: Ordering, wanted: int, shared: Shared) -> Cut | GroupCuts:
    """The last pair that is kept, or that of each group of the quota."""
    if order.quota is not None:
        return find_cuts(ctx, order, wanted)
    if ctx.config.selection.method == "sort":
        return cut_by_position(sorted_pairs(order), wanted)
    run_pass = partial(sum_over_shards, num_shards=order.num_shards, progress=ctx.progress, what="cut")
    return radix_cut(order, wanted, shared.counts, run_pass)


def find_cuts(ctx: StageContext, order: Ordering, wanted: int) -> GroupCuts:
    """The last pair that is kept of each group of the quota.

    Raises:
        UserError: there are more groups than :data:`~pdray.selection.groups.MOST_GROUPS`.
    """
    run_pass = partial(sum_over_shards, num_shards=order.num_shards, progress=ctx.progress)
    budgets = shared_out(wanted, run_pass(CountGroups(order), what="groups").counts)
    cuts: dict[str, Cut] = {}
    for name in in_order(budgets):
        if budgets[name]:
            of_group = replace(order, group=name)
            if ctx.config.selection.method == "sort":
                cuts[name] = cut_by_position(sorted_pairs(of_group), budgets[name])
                continue
            counts = run_pass(CountKeys(of_group, 0, 0), what=f"cut of {name}").counts
            cuts[name] = radix_cut(of_group, budgets[name], counts, partial(run_pass, what=f"cut of {name}"))
    return GroupCuts(cuts)


def write_shards(ctx: StageContext, order: Ordering, cut: Cut | GroupCuts, corpus: CorpusOutput) -> dict[str, Any]:
    """Write what is missing of ``pairs`` and ``kept`` and add up the figures of all shards."""
    target = ctx.shards(corpus.num_shards)
    writer = KeptWriter(order, cut, target, corpus.conversational, bool(corpus.rated), ctx.config.selection.budget)

    def attempt(missing: Sequence[int]) -> Iterable[Outcome]:
        with ctx.progress.counting_here("text of the kept pairs", len(missing), "shards") as counter, user_errors():
            for outcome in outcomes(writer, missing, counter):
                counter.add(1)
                yield outcome

    markers = run_rounds(target, attempt, ctx.progress.note)
    return add_facts(marker.facts for marker in markers.values())


def damage(folder: StoragePath, manifest: dict[str, Any]) -> str | None:
    """What is wrong with the ranks, which no shard has: their parts should hold as many rows as were ranked."""
    ranked = manifest["metrics"].get("ranked")
    found = 0
    for name in (folder / RANKS).sizes():
        try:
            with (folder / RANKS / name).open_parquet() as file:
                found += file.metadata.num_rows
        except (OSError, pa.ArrowException):
            return f"{folder.name}/{RANKS}/{name} is damaged"
    whole = not isinstance(ranked, int) or found == ranked
    return None if whole else f"{folder.name}/{RANKS} holds {found:,} of {ranked:,} ranks"


STAGE = Stage(
    name="selection",
    version=VERSION,
    upstream=("corpus", "proxies", "scores"),
    settings=settings,
    run=run,
    load=lambda value: SelectionOutput(**value),
    shown=(
        "strategy",
        "budget",
        "rows",
        "cut_pd",
        "ids_digest",
        "kept_per_aspect",
        "share_by_aspect",
        "share_by_source",
        "share_by_length",
        "chosen_longer",
        "conflict",
        "auroc",
    ),
    check=check,
    damage=damage,
    reads_also=reads_also,
)
