"""The corpora that benchmarks of proxies are made of: synthetic, SummEval, hh-rlhf; a seed draws the pairs of each."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pdray.corpus.rows import draw_pair
from pdray.demo.world import make_pairs
from pdray.hashing import hash64

WORLDS: dict[str, dict[str, Any]] = {
    "synthetic": {"pairs": 800, "max_tokens": 128, "epochs": 2, "learning_rate": 1e-3, "batch_size": 16},
    "summeval": {
        "prompts": 8,
        "max_tokens": 96,
        "max_pairs_per_aspect": 100,
        "epochs": 2,
        "learning_rate": 1e-4,
        "batch_size": 8,
    },
    "hh-rlhf": {
        "pairs": 700,
        "max_tokens": 96,
        "held_out": 0.5,
        "max_pairs_per_aspect": 150,
        "epochs": 2,
        "learning_rate": 1e-4,
        "batch_size": 8,
    },
}


def read_pairs_of(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Rows of the corpus, with both true ratings of every aspect where there are any."""
    settings = WORLDS[args.world] | ({"prompts": args.prompts} if "prompts" in args else {})
    if args.world == "synthetic":
        return make_pairs(settings["pairs"], seed=seed)
    if args.world == "hh-rlhf":
        rows = pq.read_table(args.data / "hh_rlhf_pairs.parquet").to_pylist()
        place = hash64([str(row["pair_id"]) for row in rows], f"{seed}/subset")
        return [rows[number] for number in np.argsort(place)[: settings["pairs"]].tolist()]
    rows = pq.read_table(args.data / "summeval_pairs.parquet").to_pylist()
    prompts = sorted({row["prompt_id"] for row in rows}, key=lambda name: int(hash64([str(name)], f"{seed}/subset")[0]))
    aspects = sorted(name.removeprefix("score_a.") for name in rows[0] if name.startswith("score_a."))
    drawn = [
        draw_pair(
            str(row["pair_id"]),
            row["prompt"],
            (row["response_a"], row["response_b"]),
            {aspect: (row[f"score_a.{aspect}"], row[f"score_b.{aspect}"]) for aspect in aspects},
            seed,
        )
        for row in rows
        if row["prompt_id"] in prompts[: settings["prompts"]]
    ]
    return [pair for pair in drawn if pair is not None]
