"""Which proxies judge best: heads on a frozen backbone, a trained model for each aspect, or one that they share.

    python -m benchmarks.proxies synthetic --base DIR --scratch DIR --out part-synthetic.json
    python -m benchmarks.proxies summeval --data DIR --base DIR --layers 2 --scratch DIR --out part-summeval.json
    python -m benchmarks.proxies hh-rlhf --data DIR --base DIR --layers 2 --scratch DIR --out part-hh.json
    python -m benchmarks.proxies join --parts part-*.json --out benchmarks/results/proxies-2core.json

``--data`` holds summeval_pairs.parquet and hh_rlhf_pairs.parquet. ``--base`` is the model folder that every proxy
starts from: for real text the one that ``pdray models minilm`` writes, of which ``--layers`` keeps the first, since
training all of them takes hours on one core; for the synthetic corpus a small random encoder of its words, which is
built where the folder is empty. A seed decides corpus, pairs held out, weights and order.

This is the project's own code on one CPU, without Ray: choice of pairs, features, fits, trainings, margins, divergence.
Seconds are CPU seconds of proxies and scoring, start-up left out. Held-out accuracy is that of a proxy on its own
aspect's pairs of prompts that it has not seen; accuracy is on the pairs that it is there to judge, those that other
aspects labelled, where the true ratings of its aspect differ. hh-rlhf has no ratings, and the first figure alone.
Overlap is the share of kept pairs that the heads keep too. Figures are means over the seeds with the half width of
their 95% interval (t); differences are paired.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import load_average, write_result
from benchmarks.proxies_data import WORLDS, read_pairs_of
from benchmarks.proxy_heads import auroc
from pdray.config import ProxiesConfig
from pdray.corpus.conflict import conflicts
from pdray.demo.models import build_models
from pdray.engines.encode import ModelEncoder
from pdray.engines.engine import EngineOptions, load_engine
from pdray.hashing import hash64
from pdray.margins import final_margin
from pdray.proxies import length
from pdray.proxies.data import TablesJob, write_held_out, write_tables
from pdray.proxies.done import SCRATCH, read_done
from pdray.proxies.encoded import EncodeJob, encode_shard
from pdray.proxies.features import FeatureWriter, RowsOfPairs
from pdray.proxies.full import models_of
from pdray.proxies.linear import HeadJob, fit_aspect
from pdray.proxies.pairs import AspectPairs, candidates, choose_pairs, seen_shares
from pdray.proxies.readings import SIMPLEST_FIRST, Reading, best, prepare, write_model
from pdray.proxies.training import TrainingJob, train_worker
from pdray.schema import PAIRS, pairs_schema
from pdray.selection.divergence import preference_divergence, quantile_rank, scale_margins
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from pdray.texts import read_texts, text_tables
from pdray.tokens import TokenRule

GAMMA, KEPT = 0.9, 0.3
SIDES = ("chosen", "rejected")
TEXT_COLUMNS = ("prompt", *SIDES)
OPTIONS = ("held_out", "max_pairs_per_aspect", "epochs", "learning_rate", "batch_size")
KINDS: dict[str, dict[str, Any]] = {
    "heads": {"train": "head"},
    "separate": {"train": "all", "kind": "separate"},
    "shared": {"train": "all", "kind": "shared"},
}
COMPARED = (("shared", "separate"), ("heads", "shared"))
FIGURES = ("held_out_accuracy", "accuracy", "auroc", "conflict_kept")


def main() -> None:
    """Measure one corpus with every seed, or join what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=[*WORLDS, "join"])
    parser.add_argument("--data", type=Path, help="folder of summeval_pairs.parquet")
    parser.add_argument("--base", type=Path, help="model folder that every proxy starts from")
    parser.add_argument("--layers", type=int, help="how many of its layers to keep; all where left out")
    parser.add_argument("--scratch", type=Path, help="folder for what is written on the way")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run of each kind for each")
    parser.add_argument("--parts", type=Path, nargs="+", default=[], help="results to join")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    if args.world == "join":
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in args.parts]
        worlds = {part["config"]["corpus"]: part["config"] for part in parts}
        write_result(args.out, "proxies", worlds, [row for part in parts for row in part["rows"]])
        return
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for seed in args.seeds:
        world = world_of(args, seed)
        kept: set[str] | None = None
        for kind in KINDS:
            figures, ids = world.measure(kind)
            kept = kept or ids
            found[kind].append(figures | {"overlap": len(ids & kept) / len(ids), "load_average": load_average()})
            print(seed, args.world, kind, found[kind][-1], flush=True)
        rows = [{"corpus": args.world, "proxies": kind, **summary(runs), "runs": runs} for kind, runs in found.items()]
        rows += [difference(args.world, found, one, other) for one, other in COMPARED]
        seeds = args.seeds[: args.seeds.index(seed) + 1]
        config = {
            "corpus": args.world,
            "layers": args.layers,
            "seeds": seeds,
            "kinds": KINDS,
            "gamma": GAMMA,
            "kept": KEPT,
        }
        write_result(args.out, f"proxies, {args.world}", config | WORLDS[args.world], rows)


def difference(corpus: str, found: dict[str, list[dict[str, Any]]], one: str, other: str) -> dict[str, Any]:
    """What one kind has more than another, seed by seed."""
    runs = [
        {name: a[name] - b[name] for name in FIGURES if name in a}
        for a, b in zip(found[one], found[other], strict=True)
    ]
    return {"corpus": corpus, "proxies": f"{one} less {other}", **summary(runs)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of each figure over some runs, and the half width of its 95% interval (t); None for that of one run."""
    from scipy.stats import t

    row: dict[str, Any] = {"count": len(runs)}
    for name in [name for name, value in runs[0].items() if isinstance(value, float)]:
        values = np.array([one[name] for one in runs])
        half = None
        if len(values) > 1:
            half = round(float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))), 4)
        row[name] = [round(float(values.mean()), 4), half]
    return row


def world_of(args: argparse.Namespace, seed: int) -> World:
    """The corpus of a seed; builds the base of the synthetic one where it is missing, and a base with fewer layers."""
    rows, base = read_pairs_of(args, seed), args.base
    if not (args.base / "config.json").is_file():
        build_models([row[name] for row in rows for name in TEXT_COLUMNS], args.base, args.scratch / "policy")
    if getattr(args, "layers", None):
        base = first_layers(args.base, args.layers, args.scratch / f"base-{args.layers}")
    return World(rows, base, args.scratch / f"{args.world}-{seed}", WORLDS[args.world], seed)


def first_layers(base: Path, layers: int, folder: Path) -> Path:
    """A copy of an encoder that ends after its first layers."""
    from transformers import AutoModel

    shutil.copytree(base, folder, dirs_exist_ok=True)
    AutoModel.from_pretrained(base, num_hidden_layers=layers).save_pretrained(folder)
    return folder


class World:
    """One corpus as a shard, with everything that is measured on it.

    Args:
        rows: pairs with ``pair_id``, texts, ``aspect`` and both true ratings of every aspect, if there are any.
        base: model folder that every proxy starts from.
        folder: for what is written on the way; emptied.
        settings: ``max_tokens`` and, where they are not the defaults, settings of the proxies.
        seed: of what is held out, weights and order.
    """

    def __init__(
        self, rows: list[dict[str, Any]], base: Path, folder: Path, settings: dict[str, Any], seed: int
    ) -> None:
        self.seed, self.settings, self.base = seed, settings, str(base)
        rows = sorted(rows, key=lambda row: str(row["pair_id"]))
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = StoragePath(str(folder.absolute()))
        self.prompts = hash64([str(row["prompt"]) for row in rows], "prompt")
        self.aspects = sorted({row["aspect"] for row in rows})
        self.own = np.array([self.aspects.index(row["aspect"]) for row in rows])
        self.is_rated = f"score_chosen.{self.aspects[0]}" in rows[0]
        if self.is_rated:
            self.truth, self.conflict = self._truth(rows)
        self.corpus = ShardedFolder(self.folder / "corpus", "corpus", 1)
        self.ids = [str(row["pair_id"]) for row in rows]
        self.chosen_row, self.rejected_row = self._write(rows)
        self.rule = TokenRule(self.settings["max_tokens"], self.settings["max_tokens"] // 2)

    def _truth(self, rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """True differences of the ratings, (n, κ) float64, and which pairs are in conflict, (n,)."""
        rated = [[[row[f"score_{side}.{one}"] for side in SIDES] for row in rows] for one in self.aspects]
        ratings = np.array(rated, float)  # (κ, n, 2)
        truth = (ratings[..., 0] - ratings[..., 1]).T
        return truth, conflicts(truth, self.own, np.ptp(ratings, axis=(1, 2)))

    def _write(self, rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        texts = sorted({(row["prompt"], row[side]) for row in rows for side in SIDES})
        number = {text: index for index, text in enumerate(texts)}
        chosen, rejected = (np.array([number[row["prompt"], row[side]] for row in rows]) for side in SIDES)
        prompts, responses = ([text[part] for text in texts] for part in (0, 1))
        pairs = [
            {"pair_id": pair_id, "aspect": self.aspects[own], "chosen_row": int(one), "rejected_row": int(other)}
            for pair_id, own, one, other in zip(self.ids, self.own, chosen, rejected, strict=True)
        ]
        tables = text_tables(prompts, responses, conversational=False) | {
            PAIRS: pa.Table.from_pylist(pairs, schema=pairs_schema([]))
        }
        self.corpus.write(0, tables, 0, {})
        return chosen, rejected

    def measure(self, kind: str) -> tuple[dict[str, Any], set[str]]:
        """Train one kind, score all texts, and compare with the true ratings; also the ids of the kept pairs."""
        options = {name: self.settings[name] for name in OPTIONS if name in self.settings} | KINDS[kind]
        proxies = ProxiesConfig(base_model=self.base, length_baseline=False, **options)
        began = time.process_time()
        margins, accuracies = self.judge(proxies, self.folder / kind)
        seconds = time.process_time() - began
        figures, kept = self._compare(margins)
        return {
            "held_out_accuracy": round(float(np.mean(accuracies)), 4),
            **figures,
            "seconds": round(seconds, 1),
        }, kept

    def judge(self, proxies: ProxiesConfig, folder: StoragePath) -> tuple[np.ndarray, list[float]]:
        """Train proxies, score all texts, and take their margins (eq. 17).

        Returns:
            margins, (n, κ) float64, and the held-out accuracy of each aspect.
        """
        counts = {aspect: int((self.own == number).sum()) for number, aspect in enumerate(self.aspects)}
        chosen = choose_pairs(lambda asks: [candidates(self.corpus, 0, asks, self.seed)], counts, proxies)
        judge = self._heads if proxies.train == "head" else self._trained
        rewards, lengths, accuracies = judge(chosen, proxies, folder)
        difference = lengths[self.chosen_row] - lengths[self.rejected_row]
        penalty = length.scoring_penalty(proxies.training_penalty, proxies.length_penalty_form)
        margins = final_margin(rewards[self.chosen_row] - rewards[self.rejected_row], difference[:, None], penalty)
        return margins, accuracies

    def _heads(
        self, chosen: list[AspectPairs], proxies: ProxiesConfig, folder: StoragePath
    ) -> tuple[np.ndarray, np.ndarray, list[float]]:
        readings, values, lengths = self.read_both_ways(folder)
        features = ShardedFolder(folder, "features", 1)
        facts = ModelEncoder([(folder / "together").local], self.rule).encode(read_texts(self.corpus, 0)).facts
        tables, _ = FeatureWriter()(0, np.arange(len(values)), values.astype(np.float32), facts)
        features.write(0, tables, 0, {})
        held_out = pa.concat_tables([one.held_out for one in chosen])
        fitted = {
            reading.name: [
                fit_aspect(HeadJob(one, features, reading, proxies, seen, len(chosen), self.seed, held_out))
                for one, seen in zip(chosen, seen_shares(chosen), strict=True)
            ]
            for reading in readings
        }
        losses = {
            name: float(np.mean([min(one.facts["validation_loss"].values()) for one in heads]))
            for name, heads in fitted.items()
        }
        taken = best(losses)
        print(losses, taken, [one.facts["form"] for one in fitted[taken]], flush=True)
        reading = next(one for one in readings if one.name == taken)
        write_model(reading, self.base, self.seed, [one.head for one in fitted[taken]], self.aspects, folder / "model")
        own = values[:, reading.first :][:, : reading.num_features].astype(np.float32)
        rewards = np.concatenate([one.head.rewards(own) for one in fitted[taken]], axis=1)
        return rewards, lengths, [one.facts["held_out_accuracy"] for one in fitted[taken]]

    def read_both_ways(self, folder: StoragePath) -> tuple[list[Reading], np.ndarray, np.ndarray]:
        """Both readings of a frozen backbone, their features side by side, and the tokens of every response."""
        readings: list[Reading] = []
        for name in SIMPLEST_FIRST:
            first = sum(one.num_features for one in readings)
            readings.append(prepare(name, self.base, self.seed, folder / name, first))
        return readings, *self._read([folder / name for name in SIMPLEST_FIRST])

    def _trained(
        self, chosen: list[AspectPairs], proxies: ProxiesConfig, folder: StoragePath
    ) -> tuple[np.ndarray, np.ndarray, list[float]]:
        encoded = ShardedFolder(folder / SCRATCH / "texts", "texts", 1)
        rows = RowsOfPairs.of([one.used for one in chosen])
        job = EncodeJob(self.base, self.rule, self.corpus, encoded, rows)
        assert encode_shard(job, 0, rows.rows_of(0)).error is None
        held_out, models = folder / SCRATCH / "held-out.parquet", models_of(chosen, proxies.kind)
        write_held_out(chosen, encoded, held_out)
        facts: dict[str, Any] = {}
        for name, members in models.items():
            tables = TablesJob(members, encoded, folder / SCRATCH / name, proxies, self.seed)
            counts = [len(one.train) for one in members]
            aspects = [one.aspect for one in members]
            written = write_tables(tables)
            train_worker(
                TrainingJob(name, aspects, written, held_out, counts, sum(tables.draws), folder, proxies, self.seed)
            )
            done = read_done(folder, name)
            assert done is not None
            facts |= done["aspects"]
        rewards, lengths = self._read([folder / name for name in models])
        return rewards, lengths, [facts[aspect]["held_out_accuracy"] for aspect in self.aspects]

    def _read(self, folders: list[StoragePath]) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of some models for every text, side by side, and the tokens of every response."""
        texts, outputs = read_texts(self.corpus, 0), []
        encoded = ModelEncoder([folder.local for folder in folders], self.rule).encode(texts)
        for folder, ids in zip(folders, encoded.ids, strict=True):
            engine = load_engine(folder.uri, EngineOptions("transformers", "float32", self.rule.max_tokens))
            outputs.append(engine.score(ids))
        return np.concatenate(outputs, axis=1), encoded.facts.num_tokens.astype(np.int64)

    def _compare(self, margins: np.ndarray) -> tuple[dict[str, Any], set[str]]:
        scaled = []
        for number in range(len(self.aspects)):
            sizes = np.sort(np.abs(margins[self.own != number, number]))
            scaled.append(scale_margins(margins[:, number], sizes[quantile_rank(GAMMA, len(sizes)) - 1]))
        divergence = preference_divergence(np.stack(scaled, 1), self.own)
        order = np.lexsort((np.array(self.ids), divergence))[: int(KEPT * len(self.ids))]
        figures = self._against_truth(margins, divergence, order) if self.is_rated else {}
        return figures, {self.ids[row] for row in order}

    def _against_truth(self, margins: np.ndarray, divergence: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
        accuracies = {}
        for number, aspect in enumerate(self.aspects):
            judged = (self.own != number) & (self.truth[:, number] != 0)
            right = np.sign(margins[judged, number]) == np.sign(self.truth[judged, number])
            accuracies[aspect] = round(float(right.mean()), 4)
        return {
            "accuracy": round(float(np.mean(list(accuracies.values()))), 4),
            "accuracy_of_aspect": accuracies,
            "conflict_all": round(float(self.conflict.mean()), 4),
            "conflict_kept": round(float(self.conflict[kept].mean()), 4),
            "auroc": round(auroc(divergence, self.conflict), 4),
        }


if __name__ == "__main__":
    main()
