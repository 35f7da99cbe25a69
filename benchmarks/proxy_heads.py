"""What the length remedies and the strength of regularisation do to heads and to the pairs that divergence keeps.

    python -m benchmarks.proxy_heads --run RUN --out RESULT.json

``--run`` is a run with ``proxies.train: head`` and ``proxies.reading: together`` or ``apart``, not ``auto``. Its corpus
carries true conflicts, as one on SummEval leaves it, and its proxies stage is finished with all pairs used. Every
variant fits the heads to the features of that run with the project's own code (only without Ray), gives every pair its
margins and cuts by divergence. Correlations are Spearman's, of Δlen with the margin on held-out pairs, mean over the
aspects.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import load_average, write_result
from pdray.config import ProxiesConfig, build_config
from pdray.engines.pair_features import blocks
from pdray.pipeline import plan, upstream_of
from pdray.proxies import length
from pdray.proxies.features import final_margins, read_pairs
from pdray.proxies.linear import HeadJob, fit_aspect
from pdray.proxies.pairs import AspectPairs, candidates, choose_pairs, seen_shares
from pdray.proxies.readings import Reading
from pdray.schema import PAIRS, ProxiesOutput
from pdray.selection.divergence import preference_divergence, quantile_rank, scale_margins
from pdray.stages import Upstream
from pdray.store import RunStore

OFF: dict[str, Any] = {"balance_temperature": None, "length_penalty": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "no remedy": OFF,
    "τ = 1": {**OFF, "balance_temperature": 1.0},
    "τ = 0.1": {**OFF, "balance_temperature": 0.1},
    "eq16, ρ = 0.001": {**OFF, "length_penalty": 0.001},
    "eq16, ρ = 0.01": {**OFF, "length_penalty": 0.01},
    "residual, ρ = 0.001": {**OFF, "length_penalty": 0.001, "length_penalty_form": "residual"},
    "residual, ρ = 0.01": {**OFF, "length_penalty": 0.01, "length_penalty_form": "residual"},
    "τ = 1, eq16, ρ = 0.001": {"balance_temperature": 1.0, "length_penalty": 0.001},
}
# As if all, or none, of the pairs to score had prompts that the head has seen: folds of pairs, folds of prompts.
SEEN = {"as it is": None, "all seen": 1.0, "none seen": 0.0}
GAMMA = 0.9


def main() -> None:
    """Read the run, fit every variant, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    config = build_config(RunStore(args.run.absolute()).read_state()["config"])
    upstream = upstream_of(plan(config))
    chosen = choose(upstream, config.proxies, config.seed)
    rows = run(upstream, chosen, config.proxies, config.seed)
    settings = {"gamma": GAMMA, "seed": config.seed, "max_tokens": config.scores.max_tokens}
    write_result(args.out, "proxy heads", settings, rows)


def choose(upstream: Upstream, proxies: ProxiesConfig, seed: int) -> list[AspectPairs]:
    """The pairs that the run used."""
    corpus = upstream.shards("corpus")
    assert upstream.corpus is not None
    return choose_pairs(
        lambda asks: (candidates(corpus, shard, asks, seed) for shard in range(corpus.num_shards)),
        upstream.corpus.aspect_pairs,
        proxies,
    )


def run(upstream: Upstream, chosen: list[AspectPairs], proxies: ProxiesConfig, seed: int) -> list[dict[str, Any]]:
    """One row per variant."""
    assert upstream.proxies is not None and upstream.proxies.features is not None
    corpus, rows = Corpus(upstream, [one.aspect for one in chosen]), []
    variants = [(name, change, None) for name, change in VARIANTS.items()]
    variants += [(f"prompts {name}", {}, share) for name, share in SEEN.items()]
    for name, change, share in variants:
        start, load = time.monotonic(), load_average()
        settings = proxies.model_copy(update=change)
        jobs = [
            HeadJob(
                one,
                upstream.shards("proxies"),
                reading_of(upstream.proxies),
                settings,
                own if share is None else share,
                len(chosen),
                seed,
                pa.concat_tables([one.held_out for one in chosen]),
            )
            for one, own in zip(chosen, seen_shares(chosen), strict=True)
        ]
        row = corpus.evaluate(jobs)
        rows.append({"variant": name, **row, "seconds": round(time.monotonic() - start, 1), "load_average": load})
        print(rows[-1], flush=True)
    return rows


def reading_of(output: ProxiesOutput) -> Reading:
    """How the run's heads read texts."""
    (model,), features = output.models, output.features
    assert features is not None
    if model.head is None:
        scalars = sum(width for _, width in blocks(1)) - 2
        hidden_size = (features - model.first_feature - scalars) // 2
        return Reading("apart", tuple(width for _, width in blocks(hidden_size)), model.first_feature)
    return Reading("together", (features,), 0, model.dense is not None, model.head, model.dense)


class Corpus:
    """All pairs with the features of their texts, their own aspect and their true conflict."""

    def __init__(self, upstream: Upstream, aspects: list[str]) -> None:
        shards = upstream.shards("corpus")
        columns = ["pair_id", "aspect", "chosen_row", "rejected_row", "conflict"]
        parts = [shards.read(PAIRS, shard, columns) for shard in range(shards.num_shards)]
        numbered = [
            part.append_column("shard", pa.array([shard] * len(part), pa.int32())) for shard, part in enumerate(parts)
        ]
        table = pa.concat_tables(numbered)
        assert upstream.proxies is not None and upstream.proxies.features is not None
        reading = reading_of(upstream.proxies)
        self.features = read_pairs(upstream.shards("proxies"), table, reading.num_features, reading.first)
        self.own = np.array([aspects.index(aspect) for aspect in table["aspect"].to_pylist()])
        self.pair_ids = np.array(table["pair_id"].to_pylist())
        self.conflict = np.array(table["conflict"].to_pylist(), dtype=np.float64)

    def evaluate(self, jobs: list[HeadJob]) -> dict[str, Any]:
        """Fit one variant's heads and measure what their divergence keeps."""
        scaled, facts = [], []
        for index, job in enumerate(jobs):
            fitted = fit_aspect(job)
            facts.append(fitted.facts)
            penalty = length.scoring_penalty(job.proxies.training_penalty, job.proxies.length_penalty_form)
            margin = final_margins(self.features, fitted.head, penalty)
            sizes = np.sort(np.abs(margin[self.own != index]))
            scaled.append(scale_margins(margin, sizes[quantile_rank(GAMMA, len(sizes)) - 1]))
        divergence = preference_divergence(np.stack(scaled, 1), self.own)
        conflict, count = self.conflict[np.lexsort((self.pair_ids, divergence))], len(self.own)
        return {
            "conflict_all": round(float(conflict.mean()), 4),
            **{f"conflict_{share}": round(float(conflict[: share * count // 100].mean()), 4) for share in (10, 30, 50)},
            "conflict_highest_30": round(float(conflict[-(30 * count // 100) :].mean()), 4),
            "auroc": round(auroc(divergence, self.conflict), 4),
            "held_out_accuracy": round(float(np.mean([fact["held_out_accuracy"] for fact in facts])), 4),
            "validation_accuracy": round(float(np.mean([fact["validation_accuracy"] for fact in facts])), 4),
            "length_correlation": round(float(np.mean([fact["length_correlation"]["after"] for fact in facts])), 4),
            "form": [fact["form"] for fact in facts],
            "l2": [fact["l2"] for fact in facts],
        }


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that a pair in conflict has the higher score; ties count half."""
    from scipy.stats import rankdata

    positive = label == 1
    count = positive.sum()
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(label) - count)))


if __name__ == "__main__":
    main()
