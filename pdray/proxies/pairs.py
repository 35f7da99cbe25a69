"""Which pairs a proxy is trained on and which are held out, chosen by hashes alone.

Every prompt has a hash and so has every pair. Of an aspect, the pairs with the smallest prompt hashes are held out; no
other pair of those prompts is trained on. Of the rest, those with the smallest pair hashes are trained on, up to the
share and the cap. Neither depends on how the corpus lies in shards. A task per shard returns the smallest candidates
alone, below a bound that makes them about as many as are needed; where the bound was too low it is doubled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.aspects import UNIFIED
from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.runtime.tasks import run_tasks
from pdray.schema import PAIRS, PROMPTS, TEXTS
from pdray.shards import ShardedFolder

HASHES = 2**64
SLACK = 1.5  # candidates asked for, per pair that is needed
CERTAIN = 4096  # so few pairs of an aspect are all candidates
SHARD_SECONDS = 1800.0


@dataclass(frozen=True)
class Ask:
    """What a task looks for in the pairs of one aspect; hashes are compared as Python integers in [0, 2^64].

    Attributes:
        order: column that is wanted small, ``prompt_hash`` or ``pair_hash``.
        below: bound of that column, exclusive.
        above: smallest prompt hash allowed.
        count: most candidates to return.
    """

    order: str
    below: int
    above: int
    count: int


@dataclass(frozen=True)
class AspectPairs:
    """The pairs of one aspect that are used.

    Attributes:
        aspect: its name.
        total: pairs of the aspect in the corpus.
        train: table of :func:`candidates`, ordered by pair hash.
        held_out: the same, ordered by prompt hash, then pair hash.
    """

    aspect: str
    total: int
    train: pa.Table
    held_out: pa.Table

    @property
    def used(self) -> pa.Table:
        """Both together."""
        return pa.concat_tables([self.train, self.held_out])


def prompt_hashes(prompts: pa.ChunkedArray, seed: int) -> np.ndarray:
    """A hash of each prompt, (n,) uint64; messages are hashed as JSON."""
    keys = prompts.to_pylist()
    if not pa.types.is_string(prompts.type):
        keys = [json.dumps(prompt, sort_keys=True, ensure_ascii=False) for prompt in keys]
    return hash64(keys, f"{seed}/held-out")


def candidates(corpus: ShardedFolder, shard: int, asks: dict[str, Ask], seed: int) -> pa.Table:
    """The pairs of a shard that may be used.

    Returns:
        ``aspect``, ``pair_id``, ``shard``, ``chosen_row``, ``rejected_row``, ``prompt_hash`` and ``pair_hash``
        (uint64); at most ``count`` rows for each aspect that was asked for.
    """
    pairs = corpus.read(PAIRS, shard, ["pair_id", "aspect", "chosen_row", "rejected_row"])
    pairs = pairs.filter(pc.is_in(pairs["aspect"], pa.array(list(asks), pa.string())))
    hashes = prompt_hashes(corpus.read(PROMPTS, shard)["prompt"], seed)
    prompt_row = corpus.read(TEXTS, shard, ["prompt_row"])["prompt_row"].to_numpy()
    pairs = (
        pairs.append_column("shard", pa.array(np.full(len(pairs), shard), pa.int32()))
        .append_column("prompt_hash", pa.array(hashes[prompt_row[pairs["chosen_row"].to_numpy()]]))
        .append_column("pair_hash", pa.array(hash64(pairs["pair_id"].to_pylist(), f"{seed}/pairs")))
    )
    return pa.concat_tables([_smallest(_allowed(pairs, aspect, ask), ask) for aspect, ask in asks.items()])


def _allowed(pairs: pa.Table, aspect: str, ask: Ask) -> pa.Table:
    own = pc.equal(pairs["aspect"], aspect)
    for column, limit, keep in ((ask.order, ask.below, pc.less), ("prompt_hash", ask.above, pc.greater_equal)):
        if limit < HASHES:
            own = pc.and_(own, keep(pairs[column], pa.scalar(limit, pa.uint64())))
        elif keep is pc.greater_equal:
            own = pc.and_(own, False)
    return pairs.filter(own)


def _smallest(pairs: pa.Table, ask: Ask) -> pa.Table:
    order = ["prompt_hash", "pair_hash"] if ask.order == "prompt_hash" else ["pair_hash"]
    return pairs.sort_by([(name, "ascending") for name in [*order, "pair_id"]]).slice(0, ask.count)


Look = Callable[[dict[str, Ask]], Iterable[pa.Table]]


def find_smallest(
    look: Look, totals: dict[str, int], counts: dict[str, int], order: str, above: dict[str, int]
) -> dict[str, pa.Table]:
    """The pairs of each aspect with the smallest hashes over all shards.

    Args:
        look: answers some asks with the tables of :func:`candidates`, one per shard.
        totals: pairs of each aspect.
        counts: how many are wanted of each.
        order: see :class:`Ask`.
        above: aspect -> smallest prompt hash allowed.

    Returns:
        aspect -> table, as many rows as are wanted or as there are.
    """
    bounds = {aspect: first_bound(totals[aspect], counts[aspect]) for aspect in totals}
    found: dict[str, pa.Table] = {}
    while missing := [aspect for aspect in totals if aspect not in found]:
        asks = {aspect: Ask(order, bounds[aspect], above[aspect], counts[aspect]) for aspect in missing}
        merged = pa.concat_tables(list(look(asks)))
        for aspect, ask in asks.items():
            table = _smallest(_allowed(merged, aspect, ask), ask)
            if len(table) == ask.count or ask.below >= HASHES:
                found[aspect] = table.combine_chunks()
            bounds[aspect] = min(2 * ask.below, HASHES)
    return found


def first_bound(total: int, count: int) -> int:
    """A hash below which about :data:`SLACK` times as many of ``total`` pairs lie as are wanted."""
    return HASHES if total <= max(CERTAIN, SLACK * count) else int(HASHES * SLACK * count / total)


def choose_pairs(look: Look, totals: dict[str, int], proxies: ProxiesConfig) -> list[AspectPairs]:
    """Choose the pairs of every aspect.

    Args:
        look: see :func:`find_smallest`.
        totals: pairs of each aspect in the corpus.
        proxies: ``held_out``, ``share``, ``max_pairs_per_aspect`` and ``max_held_out_pairs``.

    Raises:
        UserError: an aspect leaves too few pairs or prompts.
    """
    wanted = {
        aspect: min(_part(proxies.held_out, total), proxies.max_held_out_pairs) for aspect, total in totals.items()
    }
    held_out = find_smallest(look, totals, wanted, "prompt_hash", dict.fromkeys(totals, 0))
    above = {aspect: _next_prompt(table) for aspect, table in held_out.items()}
    left = {
        aspect: min(_part(proxies.share, total - wanted[aspect]), proxies.max_pairs_per_aspect)
        for aspect, total in totals.items()
    }
    train = find_smallest(look, totals, left, "pair_hash", above)
    chosen = [AspectPairs(aspect, totals[aspect], train[aspect], held_out[aspect]) for aspect in sorted(totals)]
    for one in chosen:
        _check_enough(one)
    return chosen


def of_all_aspects(chosen: list[AspectPairs], most: int) -> AspectPairs:
    """The pairs that the unified reward model is trained on, and is held out from: those of all aspects together.

    Args:
        chosen: of :func:`choose_pairs`.
        most: pairs to train on, those with the smallest pair hashes; none of them has a prompt that an aspect held out.
    """
    train, held_out = (pa.concat_tables([getattr(one, part) for one in chosen]) for part in ("train", "held_out"))
    train = train.filter(pc.greater(train["prompt_hash"], pc.max(held_out["prompt_hash"])))
    unified = AspectPairs(
        UNIFIED,
        sum(one.total for one in chosen),
        _smallest(train, Ask("pair_hash", HASHES, 0, most)).combine_chunks(),
        _smallest(held_out, Ask("prompt_hash", HASHES, 0, len(held_out))).combine_chunks(),
    )
    _check_enough(unified)
    return unified


def seen_shares(chosen: list[AspectPairs]) -> list[float]:
    """For each model, the share of the other aspects' pairs whose prompt stands in its own used pairs.

    All pairs count, also those beyond the caps. The held-out ones speak for themselves alone: all aspects hold the same
    prompts out, so these are known more often than others. The training pairs are a sample of the rest.
    """
    shares = []
    for one in chosen:
        own = one.used["prompt_hash"].to_numpy()
        others = [other for other in chosen if other is not one and other.aspect != UNIFIED]
        seen = sum(_seen(other.held_out, own, len(other.held_out)) for other in others)
        seen += sum(_seen(other.train, own, other.total - len(other.held_out)) for other in others)
        shares.append(seen / max(1, sum(other.total for other in others)))
    return shares


def _seen(sample: pa.Table, own: np.ndarray, count: int) -> float:
    """How many of ``count`` pairs have one of some prompts, as in a sample of them."""
    return count * float(np.isin(sample["prompt_hash"].to_numpy(), own).mean()) if len(sample) else 0.0


def _part(share: float, total: int) -> int:
    return int(share * total + 0.5)


def _next_prompt(held_out: pa.Table) -> int:
    return pc.max(held_out["prompt_hash"]).as_py() + 1 if len(held_out) else 0


def _check_enough(pairs: AspectPairs) -> None:
    prompts = len(pc.unique(pairs.train["prompt_hash"]))
    if prompts >= 2 and len(pairs.held_out):
        return
    raise UserError(
        f"the aspect {pairs.aspect!r} has {pairs.total} pairs, which leaves {len(pairs.train)} of {prompts} prompts to "
        f"train on and {len(pairs.held_out)} held out, but a proxy needs pairs of 2 prompts and 1 pair of another; add "
        "pairs, raise proxies.share, change proxies.held_out, or leave the aspect out of corpus.aspects"
    )


def look_with_ray(corpus: ShardedFolder, seed: int) -> Look:
    """Answers asks with a Ray task per shard."""

    def look(asks: dict[str, Ask]) -> Iterator[pa.Table]:
        jobs = ((corpus, shard, asks, seed) for shard in range(corpus.num_shards))
        return (table for _, table in run_tasks(candidates, jobs, SHARD_SECONDS))

    return look
