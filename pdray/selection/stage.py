"""The selection stage: quantiles, preference divergence and the exact cut, by passes over narrow columns of shards.

selection-<hash8>/
  pairs/shard-*.parquet    every pair of the corpus, row-aligned: pair_id, pd, kept, margin.<aspect>
  kept/shard-*.parquet     the kept pairs with their text in TRL's preference format
  ranked/*.parquet         pair_id, pd and rank from 1, of the kept pairs or of all (selection.rank)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from pdray.config import RunConfig, SelectionConfig, fingerprinted
from pdray.errors import UserError, reason, user_errors
from pdray.runtime.tasks import outcomes, sum_over_shards
from pdray.schema import PAIRS, TEXTS, CorpusOutput, SelectionOutput
from pdray.selection.cut import CountKeys, Cut, radix_cut
from pdray.selection.divergence import num_kept
from pdray.selection.kept import KeptWriter, add_facts
from pdray.selection.order import Ordering, PairSource, RatingSource
from pdray.selection.quantiles import absolute_quantiles
from pdray.selection.radix import float_of
from pdray.selection.ranks import FOLDER as RANKS
from pdray.selection.ranks import cut_by_position, sorted_pairs, write_ranks
from pdray.selection.shared import Shared, read_shared, shared_path, write_shared
from pdray.selection.strategies import find, origin
from pdray.selection.strategy import Strategy
from pdray.shards import VERIFY_THREADS, Marker, Outcome, ShardedFolder, run_rounds, shard_name
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath
from pdray.store import fingerprint

VERSION = 4


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the selection: its section and the seed, and the package that a plugin's strategy comes from."""
    package = origin(config.selection.strategy)
    return fingerprinted(config.selection) | {"seed": config.seed} | ({"package": package} if package else {})


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse, as soon as the corpus is known, a budget that keeps nothing and what the corpus does not have.

    Raises:
        UserError: ⌊λN⌋ is 0; the strategy looks at ratings that no pair has; a weight of an unknown aspect.
    """
    corpus, selection = upstream.corpus, config.selection
    if corpus is None:
        return
    if num_kept(selection.budget, corpus.pairs) == 0:
        raise UserError(
            f"selection.budget {selection.budget} of {corpus.pairs:,} pairs keeps none; "
            f"set it to at least {_smallest_budget(corpus.pairs)} or give more pairs"
        )
    lacking = sorted(set(corpus.aspects) - set(corpus.rated))
    if lacking and find_strategy(selection.strategy).margins == "ratings":
        raise UserError(
            f"selection.strategy {selection.strategy} needs true ratings of every aspect, but the corpus has none of "
            f"{', '.join(lacking)} (columns score_chosen.<aspect> and score_rejected.<aspect>); choose another strategy"
        )
    unknown = sorted(set(selection.weights) - set(corpus.aspects))
    if unknown:
        raise UserError(
            f"selection.weights names {', '.join(unknown)}, but the corpus has the aspects {', '.join(corpus.aspects)}"
        )


def find_strategy(name: str) -> Strategy:
    """The strategy that a config names.

    Raises:
        UserError: it stands in another package, which does not load.
    """
    try:
        return find(name)
    except Exception as error:  # code of another package may raise anything
        raise UserError(f"selection.strategy {name} does not load: {reason(error)}") from None


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
    corpus, selection = ctx.upstream.corpus, ctx.config.selection
    assert corpus is not None
    strategy = find_strategy(selection.strategy)
    source = pair_source(ctx.upstream)
    if strategy.margins == "ratings":
        source = RatingSource(source.corpus, source.scores, dict.fromkeys(corpus.rated, 0.0))
    shared = find_shared(ctx, source)
    order = ordering(ctx, source, shared.quantiles, selection.strategy, shared.median)
    finite = int(shared.counts.sum())
    wanted = finite if strategy.keeps_all else num_kept(selection.budget, corpus.pairs)
    if finite < max(wanted, 1):
        raise UserError(
            f"only {finite:,} of {corpus.pairs:,} pairs have a finite divergence but selection.budget asks for "
            f"{max(wanted, 1):,}; look at the proxies' rewards, or lower the budget"
        )
    cut = find_cut(ctx, order, wanted, shared)
    figures = write_shards(ctx, order, cut, corpus)
    assert (figures["kept"], figures["finite"]) == (wanted, finite), f"{figures} for {wanted} of {finite} pairs"
    ranked = 0
    if selection.rank != "none":
        ranked = write_ranks(sorted_pairs(order, cut if selection.rank == "kept" else None), ctx.folder)
        assert ranked == (wanted if selection.rank == "kept" else finite), f"{ranked} ranks"
    not_finite = corpus.pairs - finite
    return StageResult(
        output=SelectionOutput(corpus.num_shards, wanted, corpus.conversational, aspect_weights(selection, source)),
        rows_in=corpus.pairs,
        rows_out=wanted,
        dropped={"over the budget": finite - wanted, "divergence not finite": not_finite},
        metrics={
            "strategy": selection.strategy,
            "budget": selection.budget,
            "rows": wanted,
            "ranked": ranked,
            "cut_pd": figures["cut_pd"],
            "ids_digest": figures["ids_digest"],
            # JSON has no NaN: the quantile of an aspect without a finite margin is null.
            "quantiles": {aspect: q if math.isfinite(q) else None for aspect, q in shared.quantiles.items()},
            "conflict": figures["conflict"],
            "kept_per_aspect": figures["kept_per_aspect"],
            "chosen_longer": figures["chosen_longer"],
        },
        notes=[f"{not_finite:,} pairs have no finite divergence and were left out"] if not_finite else [],
    )


def pair_source(upstream: Upstream) -> PairSource:
    """The pairs and their rewards.

    Raises:
        UserError: shards of the scores are gone, or are not those of the corpus.
    """
    corpus, scores = upstream.shards("corpus"), upstream.shards("scores")
    assert upstream.corpus is not None and upstream.proxies is not None and upstream.scores is not None
    with ThreadPoolExecutor(VERIFY_THREADS) as pool:
        of_corpus = list(pool.map(partial(_marker, corpus), range(corpus.num_shards)))
        of_scores = list(pool.map(partial(_marker, scores), range(scores.num_shards)))
    if [_rows(marker, TEXTS) for marker in of_corpus] != [_rows(marker, TEXTS) for marker in of_scores]:
        raise UserError(f"{scores.folder} does not hold one row for each text of {corpus.folder}; run again")
    found = sum(_rows(marker, PAIRS) for marker in of_corpus)
    if found != upstream.corpus.pairs:
        raise UserError(f"{corpus.folder} holds {found:,} pairs instead of {upstream.corpus.pairs:,}; run again")
    penalties = {aspect: upstream.proxies.length_penalty[aspect] for aspect in sorted(upstream.scores.aspects)}
    return PairSource(corpus, scores, penalties)


def _marker(shards: ShardedFolder, shard: int) -> Marker:
    marker = shards.read_marker(shard)
    if marker is None:
        raise UserError(f"shard {shard} of {shards.folder} is missing or was made by another run; run again")
    return marker


def _rows(marker: Marker, table: str) -> int:
    return marker.files[f"{table}/{shard_name(marker.shard)}.parquet"]["rows"]


def find_shared(ctx: StageContext, source: PairSource) -> Shared:
    """Quantiles and the first count of the keys, from an earlier budget of this run where there was one."""
    selection = ctx.config.selection
    decided = {name: value for name, value in settings(ctx.config).items() if name not in ("budget", "rank")}
    prints = {name: ctx.upstream.fingerprints[name] for name in STAGE.upstream}
    key = fingerprint([VERSION, decided, prints])
    path = shared_path(ctx.run, key)
    shared = read_shared(path, key)
    if shared is None:
        run_pass = partial(sum_over_shards, num_shards=source.corpus.num_shards, progress=ctx.progress)
        quantiles = absolute_quantiles(source, selection.gamma, partial(run_pass, what="quantiles"))
        median = float("nan")
        if find_strategy(selection.strategy).needs_median:
            median = median_divergence(ordering(ctx, source, quantiles, "pd"), run_pass)
        order = ordering(ctx, source, quantiles, selection.strategy, median)
        shared = Shared(quantiles, run_pass(CountKeys(order, 0, 0), what="divergence").counts, median)
        write_shared(path, key, shared)
    return shared


def ordering(
    ctx: StageContext, source: PairSource, quantiles: dict[str, float], strategy: str, median: float = float("nan")
) -> Ordering:
    """How a strategy orders the pairs of this run."""
    selection = ctx.config.selection
    weights = tuple(aspect_weights(selection, source).values()) if selection.weights else None
    return Ordering(source, quantiles, strategy, ctx.config.seed, weights, median)


def aspect_weights(selection: SelectionConfig, source: PairSource) -> dict[str, float]:
    """Aspect -> weight of its margin, of every aspect in the order of the penalties."""
    return {aspect: selection.weights.get(aspect, 1.0) for aspect in source.penalties}


def median_divergence(order: Ordering, run_pass: Callable[..., Any]) -> float:
    """The lower median of the finite divergences, by radix passes; NaN where there are none."""
    counts = run_pass(CountKeys(order, 0, 0), what="divergence").counts
    finite = int(counts.sum())
    if not finite:
        return float("nan")
    return float_of(radix_cut(order, (finite + 1) // 2, counts, partial(run_pass, what="median")).bits)


def find_cut(ctx: StageContext, order: Ordering, wanted: int, shared: Shared) -> Cut:
    """The last pair that is kept."""
    if ctx.config.selection.method == "sort":
        return cut_by_position(sorted_pairs(order), wanted)
    run_pass = partial(sum_over_shards, num_shards=order.num_shards, progress=ctx.progress, what="cut")
    return radix_cut(order, wanted, shared.counts, run_pass)


def write_shards(ctx: StageContext, order: Ordering, cut: Cut, corpus: CorpusOutput) -> dict[str, Any]:
    """Write what is missing of ``pairs`` and ``kept`` and add up the figures of all shards."""
    target = ctx.shards(corpus.num_shards)
    writer = KeptWriter(order, cut, target, corpus.conversational, bool(corpus.rated), ctx.config.selection.budget)

    def attempt(missing: Sequence[int]) -> Iterable[Outcome]:
        with ctx.progress.counting_here("text of the kept pairs", len(missing), "shards") as counter, user_errors():
            for outcome in outcomes(writer, missing, counter):
                counter.add(1)
                yield outcome

    markers = run_rounds(target, attempt, ctx.progress.note)
    return add_facts([markers[shard].facts for shard in range(corpus.num_shards)])


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
    shown=("strategy", "budget", "rows", "cut_pd", "ids_digest", "kept_per_aspect", "chosen_longer", "conflict"),
    check=check,
    damage=damage,
)
