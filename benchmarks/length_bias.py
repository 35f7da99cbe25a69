"""What is left of length bias where remedies are found by themselves, on pairs that neither fit nor search has seen.

    python -m benchmarks.length_bias --data DIR --base DIR --scratch DIR --out benchmarks/results/length-bias-2core.json

``--data`` holds summeval_pairs.parquet and hh_rlhf_pairs.parquet; ``--base`` is the encoder that ``pdray models
minilm`` writes. Of either data set some pairs are a corpus, in which linear heads are fitted and τ and ρ are found as
the product does, with its defaults but for what a variant names; as many pairs of other prompts tell what is left. The
correlation is Spearman's, of Δlen with an aspect's margin, mean over the aspects; accuracy that of each aspect's margin
on its own pairs. Both have 95% intervals of a bootstrap over the new prompts; ``reached`` is the correlation on the
held-out pairs of all aspects, which the search saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import load_average, write_result
from benchmarks.method.__main__ import quiet
from benchmarks.method.data import FILES, labelled, read_rows, some
from benchmarks.method.heads import HeadWorld, TextFeatures
from benchmarks.method.selection import divergence_of
from benchmarks.proxies import GAMMA, KEPT
from benchmarks.proxy_heads import auroc
from pdray.config import ProxiesConfig
from pdray.evaluation.accuracy import LEVEL
from pdray.margins import final_margin
from pdray.proxies.linear import FittedHead
from pdray.proxies.quality import rank_correlation
from pdray.proxies.readings import Reading

AUTO, RESIDUAL = {"length_penalty": "auto"}, {"length_penalty": "auto", "length_penalty_form": "residual"}
VARIANTS: dict[str, dict[str, Any]] = {
    "no remedy": {"balance_temperature": None, "length_penalty": 0.0},
    "default": {},
    "τ auto": {"balance_temperature": "auto", "length_penalty": 0.0},
    "ρ auto": AUTO,
    "ρ auto, residual": RESIDUAL,
    "τ auto, ρ auto": {"balance_temperature": "auto", **AUTO},
    "τ auto, ρ auto, residual": {"balance_temperature": "auto", **RESIDUAL},
}
RESAMPLES = 1000


def main() -> None:
    """Measure every variant on both data sets; the result is written anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--base", type=Path, required=True, help="model folder of the encoder")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for what is written on the way")
    parser.add_argument("--pairs", type=int, default=600, help="of the corpus, and as many new ones")
    parser.add_argument("--max-tokens", type=int, default=128, help="of a text that the encoder reads")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out, drawn and taken")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    quiet()
    config = {"pairs": args.pairs, "max_tokens": args.max_tokens, "seed": args.seed, "variants": VARIANTS}
    rows: list[dict[str, Any]] = []
    for name in FILES:
        known, new = (world_of(args, name, held_out) for held_out in (False, True))
        features = known.read(known.folder), new.read(new.folder)
        for variant, change in VARIANTS.items():
            proxies = ProxiesConfig.model_validate(
                {"base_model": str(args.base), "train": "head", "length_baseline": False} | change
            )
            reading, heads = known.fit(known.choose(proxies), proxies, features[0])
            row = {"corpus": name, "variant": variant, **found(heads), **figures(new, features[1], reading, heads)}
            rows.append(row | {"load_average": load_average()})
            print(rows[-1], flush=True)
            write_result(args.out, "length bias", config, rows)


def world_of(args: argparse.Namespace, name: str, held_out: bool) -> HeadWorld:
    """The corpus, or the new pairs."""
    pairs = (labelled(row, args.seed) for row in read_rows(args.data, name, args.seed, held_out))
    folder = args.scratch / f"{name}-{'new' if held_out else 'corpus'}"
    settings = {"max_tokens": args.max_tokens}
    return HeadWorld(some(pairs, args.pairs, args.seed), args.base, folder, settings, args.seed)


def found(heads: list[FittedHead]) -> dict[str, Any]:
    """τ, ρ of the loss and of scoring, and what they reached, of each aspect."""
    names = {"temperature": "balance_temperature", "loss_penalty": "training_penalty", "reached": "reached_correlation"}
    return {name: [one.facts[fact] for one in heads] for name, fact in names.items()} | {
        "penalty": [one.penalty for one in heads]
    }


def figures(new: HeadWorld, features: TextFeatures, reading: Reading, heads: list[FittedHead]) -> dict[str, Any]:
    """What the heads make of the new pairs."""
    difference = features.lengths[new.chosen_row] - features.lengths[new.rejected_row]
    margins = np.stack([margins_of(new, features.of(reading), one, difference) for one in heads], axis=1)
    own = margins[np.arange(len(margins)), new.own]
    right = np.where(own == 0, 0.5, own > 0)
    divergence = divergence_of(margins, new.own, GAMMA)
    kept = np.argsort(divergence, kind="stable")[: int(KEPT * len(divergence))]
    row = {
        "reading": reading.name,
        "correlation": interval(lambda rows: correlation(difference[rows], margins[rows]), new.prompts, new.seed),
        "accuracy": interval(lambda rows: float(right[rows].mean()), new.prompts, new.seed),
        "longer": [round(float((one > 0).mean()), 4) for one in (difference, difference[kept])],
    }
    if not new.is_rated:
        return row
    return row | {
        "auroc": round(auroc(divergence, new.conflict), 4),
        "conflict": [round(float(one.mean()), 4) for one in (new.conflict, new.conflict[kept])],
    }


def margins_of(new: HeadWorld, values: np.ndarray, head: FittedHead, difference: np.ndarray) -> np.ndarray:
    """Margins of eq. 17 of one aspect on the new pairs under the head that saw no held-out pair, (n,) float64."""
    reward = head.measured.rewards(values)[:, 0].astype(np.float64)
    return final_margin(reward[new.chosen_row] - reward[new.rejected_row], difference, head.penalty)


def correlation(difference: np.ndarray, margins: np.ndarray) -> float:
    """Mean over the aspects of the rank correlation of Δlen (n,) with each column of margins (n, κ)."""
    return float(np.mean([rank_correlation(difference, margin) or 0.0 for margin in margins.T]))


def interval(figure: Any, prompts: np.ndarray, seed: int) -> list[float]:
    """A figure of all pairs, and the ends of its 95% interval by a bootstrap that draws whole prompts.

    Args:
        figure: of some positions of pairs.
        prompts: (n,), equal for pairs of one prompt.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    draws = [
        figure(np.concatenate([groups[one] for one in rng.integers(len(groups), size=len(groups))]))
        for _ in range(RESAMPLES)
    ]
    ends = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [round(float(value), 4) for value in (figure(np.arange(len(prompts))), *ends)]


if __name__ == "__main__":
    main()
