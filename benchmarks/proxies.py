"""What the length remedies and the length of training do to proxies and to the pairs that divergence keeps.

    python -m benchmarks.proxies --corpus RUN/corpus-HASH --model MODELS/minilm --out RESULT.json

``--corpus`` is a finished corpus stage whose pairs carry true conflicts, as a run on SummEval leaves it. Every
variant trains the heads of the same frozen backbone on the same features with the project's own code (only without
Ray), scores every pair with them and cuts by divergence. Correlations are Spearman's, of Δlen with the margin
on held-out pairs, mean over the aspects.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.common import load_average, write_result
from pdray.config import ProxiesConfig
from pdray.proxies import length
from pdray.proxies.data import AspectJob, divide, encode_aspect
from pdray.proxies.features import Features, FeatureWriter, index_texts
from pdray.proxies.training import TrainingJob, train_one
from pdray.selection.divergence import preference_divergence, quantile_rank, scale_margins

BASE = {"train": "head", "max_tokens": 256, "epochs": 60, "learning_rate": 0.01, "batch_size": 256, "held_out": 0.1}
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
    "no remedy, 20 epochs": {**OFF, "epochs": 20},
    "no remedy, learning rate 0.001": {**OFF, "learning_rate": 0.001},
}
GAMMA, SEED = 0.9, 0


class NoCounter:
    """A progress line that nobody reads."""

    def add(self, count: int) -> None:
        """Forget it."""


def main() -> None:
    """Prepare all variants, compute the features once, train, score, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of a finished corpus stage")
    parser.add_argument("--model", type=Path, required=True, help="folder of the frozen backbone")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    aspects = json.loads((args.corpus / "manifest.json").read_text())["metrics"]["aspects"]
    with tempfile.TemporaryDirectory() as scratch:
        rows = run(args.corpus / "pairs", str(args.model), aspects, Path(scratch))
    write_result(args.out, "proxies", {**BASE, "gamma": GAMMA, "seed": SEED, "aspects": aspects}, rows)


def run(pairs: Path, model: str, aspects: list[str], scratch: Path) -> list[dict[str, Any]]:
    """One row per variant."""
    settings = {name: ProxiesConfig(base_model=model, **{**BASE, **change}) for name, change in VARIANTS.items()}
    jobs = {
        (name, aspect): AspectJob(aspect, pairs, scratch / f"{v}-{a}", proxies, "end", 1.0, SEED)
        for v, (name, proxies) in enumerate(settings.items())
        for a, aspect in enumerate(aspects)
    }
    first = next(iter(settings))
    encoded = {aspect: encode_aspect(jobs[first, aspect]) for aspect in aspects}
    prepared = {key: divide(job, encoded[job.aspect]) for key, job in jobs.items()}
    everything = [write_all(scratch / f"all-{a}.parquet", encoded[aspect]) for a, aspect in enumerate(aspects)]
    tables = [table for one in prepared.values() for table in one.tables.values()]
    features = index_texts(tables + everything, scratch / "features")
    print(f"{features.num_texts} different texts", flush=True)
    FeatureWriter(model, SEED, 1, False, NoCounter())({"file": np.array(features.files)})
    corpus = Corpus(pairs, everything, aspects)
    rows = []
    for name, proxies in settings.items():
        start, load = time.monotonic(), load_average()
        trained = [
            TrainingJob(
                str(a), prepared[name, aspect], features, scratch / "proxy", scratch, proxies, SEED, NoCounter()
            )
            for a, aspect in enumerate(aspects)
        ]
        row = evaluate(corpus, trained)
        rows.append({"variant": name, **row, "seconds": round(time.monotonic() - start, 1), "load_average": load})
        print(rows[-1], flush=True)
    return rows


def write_all(path: Path, encoded: pa.Table) -> str:
    """Every pair of an aspect as a table whose texts become rows of the features."""
    pq.write_table(encoded, path)
    return str(path)


class Corpus:
    """All pairs in one order: ids, texts as rows of the features, Δlen, own aspect and true conflict."""

    def __init__(self, pairs: Path, tables: list[str], aspects: list[str]) -> None:
        encoded = [pq.read_table(table) for table in tables]
        self.own = np.concatenate([np.full(len(table), index) for index, table in enumerate(encoded)])
        self.pair_ids = np.concatenate([np.array(table["pair_id"].to_pylist()) for table in encoded])
        self.chosen, self.rejected = (
            np.concatenate([np.array(table[name].to_pylist())[:, 0] for table in encoded])
            for name in ("chosen_ids", "rejected_ids")
        )
        self.difference = np.concatenate([table["length_difference"].to_numpy() for table in encoded])
        table = ds.dataset(pairs).to_table(columns=["pair_id", "conflict"])
        truth = dict(zip(table["pair_id"].to_pylist(), table["conflict"].to_pylist(), strict=True))
        self.conflict = np.array([truth[pair_id] for pair_id in self.pair_ids], dtype=np.float64)


def evaluate(corpus: Corpus, jobs: list[TrainingJob]) -> dict[str, Any]:
    """Train one variant's proxies and measure what their divergence keeps."""
    scaled, accuracies, correlations = [], [], []
    for index, job in enumerate(jobs):
        penalty = length.scoring_penalty(job.proxies.length_penalty, job.proxies.length_penalty_form)
        held_out = pq.read_table(job.prepared.tables["held_out"])["length_difference"].to_numpy()
        reward_margin = train_one(job, "train", job.folder)
        margin = length.final_margin(reward_margin, held_out, penalty)
        accuracies.append(length.accuracy(margin))
        correlations.append(length.rank_correlation(held_out, margin))
        reward = score_features(str(job.folder), job.features)
        margin = length.final_margin(reward[corpus.chosen] - reward[corpus.rejected], corpus.difference, penalty)
        sizes = np.sort(np.abs(margin[corpus.own != index]))
        scaled.append(scale_margins(margin, sizes[quantile_rank(GAMMA, len(sizes)) - 1]))
    order = np.lexsort((corpus.pair_ids, preference_divergence(np.stack(scaled, 1), corpus.own)))
    conflict, count = corpus.conflict[order], len(order)
    return {
        "conflict_all": round(float(conflict.mean()), 4),
        **{f"conflict_{share}": round(float(conflict[: share * count // 100].mean()), 4) for share in (10, 30, 50)},
        "conflict_highest_30": round(float(conflict[-(30 * count // 100) :].mean()), 4),
        "held_out_accuracy": round(float(np.mean(accuracies)), 4),
        "length_correlation": round(float(np.mean(correlations)), 4),
    }


def score_features(folder: str, features: Features | None) -> np.ndarray:
    """Reward of every text of the features, from a saved proxy; (T,) float64."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from pdray.proxies.heads import rewards, swap_backbone

    assert features is not None
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    swap_backbone(model, torch.from_numpy(features.load()))
    return rewards(model, [[row] for row in range(features.num_texts)], 0, batch_size=256)


if __name__ == "__main__":
    main()
