"""How heads judge pairs of prompts that they have not seen, and what the choice of form and reading is worth there.

    python -m benchmarks.proxy_prompts synthetic --base DIR --scratch DIR --out part-synthetic.json
    python -m benchmarks.proxy_prompts summeval --data DIR --base DIR --scratch DIR --out part-summeval.json
    python -m benchmarks.proxies join --parts part-*.json --out benchmarks/results/proxy-prompts-2core.json

Corpora and models are those of ``benchmarks.proxies``. Whole prompts are held out in :data:`FOLDS` parts: heads are
fitted to pairs of the other prompts, form, strength and reading chosen among these alone, and every pair of the
held-out prompts gets its divergence. Two rules choose: by folds of whole prompts, and by folds of single pairs, which
is what a corpus asks for whose pairs all have prompts that the heads know. Tanh units whose fit would take minutes are
left out. Figures are means over the parts of all seeds, with the half width of the 95% interval of that mean (t);
differences are paired.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import load_average, write_result
from benchmarks.proxies import GAMMA, KEPT, World, summary, world_of
from benchmarks.proxies_data import WORLDS
from benchmarks.proxy_heads import auroc
from pdray.config import ProxiesConfig
from pdray.proxies import length, tanh
from pdray.proxies.features import PairFeatures, final_margins
from pdray.proxies.forms import Form, Linear, ProxyPairs, Tanh
from pdray.proxies.readings import Reading
from pdray.proxies.validation import Validation, fold_of
from pdray.rewards import RewardHead
from pdray.selection.divergence import preference_divergence, quantile_rank, scale_margins

FOLDS = 3
PAIRS = 200  # of an aspect that heads are fitted to
PRODUCTS = 2**24  # of one pass of a layer of tanh units over the texts
RULES = ("by prompts", "by pairs")
FIGURES = ("accuracy", "auroc", "conflict_kept")


@dataclass(frozen=True)
class Candidate:
    """A fitted head.

    Attributes:
        name: of reading and form.
        losses: cross-validated, under each of :data:`RULES`.
        head: of one output.
        features: of all pairs, that it reads.
    """

    name: str
    losses: tuple[float, float]
    head: RewardHead
    features: PairFeatures


def main() -> None:
    """Measure one corpus with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=["synthetic", "summeval"])
    parser.add_argument("--data", type=Path, help="folder of summeval_pairs.parquet")
    parser.add_argument("--base", type=Path, required=True, help="model folder of the backbone")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for what is written on the way")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of SummEval")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the corpora")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for done, seed in enumerate(args.seeds, 1):
        world = world_of(args, seed)
        readings, values, lengths = world.read_both_ways(world.folder)
        sides = world.chosen_row, world.rejected_row
        features = [
            (
                reading,
                PairFeatures(
                    values[:, reading.first :][:, : reading.num_features].astype(np.float32),
                    *sides,
                    lengths[sides[0]] - lengths[sides[1]],
                ),
            )
            for reading in readings
        ]
        for fold in range(FOLDS):
            for name, figures in measure(world, features, fold).items():
                found.setdefault(name, []).append(figures)
                print(seed, fold, name, figures, load_average(), flush=True)
        rows = [{"corpus": args.world, "heads": name, **summary(parts)} for name, parts in found.items()]
        settings = {"folds": FOLDS, "pairs": PAIRS, "kept": KEPT, "gamma": GAMMA, "prompts": args.prompts}
        config = {"corpus": args.world, "seeds": args.seeds[:done], **WORLDS[args.world], **settings}
        write_result(
            args.out, f"proxies of unseen prompts, {args.world}", config, rows + differences(args.world, found)
        )


def differences(corpus: str, found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Tanh units less linear heads of the same reading, and choice by pairs less choice by prompts, part by part."""
    pairs = [(name, name.replace("tanh", "linear")) for name in found if "tanh" in name]
    pairs.append(tuple(f"chosen {rule}" for rule in reversed(RULES)))  # type: ignore[arg-type]
    return [
        {
            "corpus": corpus,
            "heads": f"{one} less {other}",
            **summary(
                [
                    {figure: a[figure] - b[figure] for figure in FIGURES}
                    for a, b in zip(found[one], found[other], strict=True)
                ]
            ),
        }
        for one, other in pairs
    ]


def measure(world: World, features: list[tuple[Reading, PairFeatures]], fold: int) -> dict[str, dict[str, float]]:
    """The figures of the held-out prompts of one part under every form, and under what each rule chooses."""
    unseen = fold_of(world.prompts, FOLDS) == fold
    by_aspect: list[list[Candidate]] = []
    for number in range(len(world.aspects)):
        known = np.flatnonzero(~unseen & (world.own == number))
        known = np.random.default_rng(world.seed).permutation(known)[:PAIRS]
        by_aspect.append([one for reading, whole in features for one in fit(world, reading, whole, known)])
    names = [one.name for one in by_aspect[0] if all(one.name in {two.name for two in rest} for rest in by_aspect)]
    named = {name: [next(one for one in candidates if one.name == name) for candidates in by_aspect] for name in names}
    rows = {name: figures_of(world, heads, unseen) for name, heads in named.items()}
    for rule, name in enumerate(RULES):
        # As the product chooses: the form for each aspect, the reading by the mean over the aspects.
        best = [
            [
                min((one for one in candidates if one.name.startswith(reading.name)), key=lambda one: one.losses[rule])
                for candidates in by_aspect
            ]
            for reading, _ in features
        ]
        taken = min(best, key=lambda heads: float(np.mean([one.losses[rule] for one in heads])))
        rows[f"chosen {name}"] = figures_of(world, taken, unseen)
        print(name, [one.name for one in taken], flush=True)
    return rows


def fit(world: World, reading: Reading, whole: PairFeatures, known: np.ndarray) -> list[Candidate]:
    """Each form with the strength that folds of prompts choose, fitted to some pairs."""
    proxies, features = ProxiesConfig(base_model=world.base), whole.take(known)
    tokens = features.length_difference
    margin = length.training_margin(tokens, proxies.training_penalty, proxies.length_penalty_form)
    pairs = ProxyPairs(features, margin, length.balance_weights(tokens, proxies.training_temperature))
    scale = reading.scale(features)
    units = tanh.units_of(len(features.values), reading.num_features, len(world.aspects))
    forms: list[Form] = [Linear(False)]
    if reading.tanh and units and units * reading.num_features * len(features.values) <= PRODUCTS:
        forms.append(Tanh(units, world.seed))
    fitted, seen = [], (pairs, scale, world.prompts[known])
    for form in forms:
        by_prompts, by_pairs = (Validation(*seen, share).measure(form) for share in (0.0, 1.0))
        head = form.head(form.fit(pairs, scale, by_prompts.strength).weights, scale)
        losses = by_prompts.loss, by_pairs.loss
        fitted.append(Candidate(f"{reading.name} {form.name}", losses, head, whole))
    return fitted


def figures_of(world: World, heads: list[Candidate], unseen: np.ndarray) -> dict[str, float]:
    """What the divergence of some heads, one for each aspect, tells of the pairs that they have not seen."""
    proxies, own, scaled, accuracies = ProxiesConfig(base_model=world.base), world.own[unseen], [], []
    penalty = length.scoring_penalty(proxies.training_penalty, proxies.length_penalty_form)
    for number, one in enumerate(heads):
        margin = final_margins(one.features.take(unseen), one.head, penalty)
        sizes = np.sort(np.abs(margin[own != number]))
        scaled.append(scale_margins(margin, sizes[quantile_rank(GAMMA, len(sizes)) - 1]))
        truth = np.sign(world.truth[unseen, number])
        judged = (own != number) & (truth != 0)
        accuracies.append(float(np.mean(np.sign(margin[judged]) == truth[judged])))
    divergence, conflict = preference_divergence(np.stack(scaled, 1), own), world.conflict[unseen]
    order = np.argsort(divergence, kind="stable")[: int(KEPT * len(own))]
    return {
        "accuracy": float(np.mean(accuracies)),
        "auroc": auroc(divergence, conflict),
        "conflict_kept": float(conflict[order].mean()),
        "conflict_all": float(conflict.mean()),
    }


if __name__ == "__main__":
    main()
