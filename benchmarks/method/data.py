"""The comparison on real text: SummEval, whose true ratings are known, and hh-rlhf, where an aspect labels each pair.

Each of three seeds holds out another third of the prompts. A held-out pair is labelled by the mean of its true ratings,
or, where there are none, as the data set labels it. Of the other prompts some pairs are the corpus; one aspect whose
ratings differ labels each, drawn by the seed. The policy is a small Llama with a tokenizer of the corpus, which has
learnt to say the responses of the corpus, chosen and rejected alike, so that it prefers neither.

Proxies are linear heads on the frozen encoder of ``--base``, with the product's settings; the product also tries heads
with a layer of tanh units, whose fits would take longer than all else here. Nothing was chosen on these data but
:class:`DataSize`, by what two cores afford.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.method.heads import HeadWorld
from benchmarks.method.lab import Lab, Setting, Size
from benchmarks.method.models import build_model, byte_pairs
from benchmarks.proxies import SIDES
from pdray.config import ProxiesConfig
from pdray.corpus.rows import draw_pair
from pdray.demo.sft import train_sft
from pdray.hashing import hash64
from pdray.proxies.validation import fold_of
from pdray.responses import CutRule

FILES = {"SummEval": "summeval_pairs.parquet", "hh-rlhf": "hh_rlhf_pairs.parquet"}
PARTS = 3  # of the prompts, of which a seed holds one out
RATING = "score_a."


@dataclass(frozen=True)
class DataSize(Size):
    """How much of everything; β and the rates are those of the demo's world.

    Attributes:
        sft_epochs: passes of SFT over the distinct responses of the corpus.
        policy_size: width of the policy.
        vocabulary: of its tokenizer.
        max_tokens: of prompt and response that the policy reads.
        prompt_tokens: of a prompt's end that stay in any case.
        proxy_tokens: of a text that the encoder reads.
    """

    pairs: int = 640
    held_out: int = 400
    sft_epochs: float = 3
    sft_rate: float = 3e-3
    dpo_rate: float = 2e-4
    beta: float = 2.0
    policy_size: int = 64
    vocabulary: int = 2048
    max_tokens: int = 96
    prompt_tokens: int = 24
    proxy_tokens: int = 128


class DataLab(Lab):
    """The corpus of one data set and seed.

    Args:
        folder: of all corpora.
        size: how much of everything.
        level: a name of :data:`FILES`.
        seed: see :class:`~benchmarks.method.lab.Lab`.
        data: folder of the files.
        base: model folder of the encoder.
    """

    size: DataSize
    level: str

    def __init__(self, folder: Path, size: DataSize, level: str, seed: int, data: Path, base: Path) -> None:
        own = folder / f"{level}-seed-{seed}"
        super().__init__(own, own, level, seed, size, CutRule(size.max_tokens, size.prompt_tokens))
        self.data, self.base = data, base

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """The corpus, by ``pair_id``."""
        found = (labelled(row, self.seed) for row in read_rows(self.data, self.level, self.seed, held_out=False))
        return sorted(some(found, self.size.pairs, self.seed), key=lambda pair: pair["pair_id"])

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Pairs of prompts that the corpus does not have."""
        found = map(judged, read_rows(self.data, self.level, self.seed, held_out=True))
        return some(found, self.size.held_out, self.seed)

    def make_start(self, folder: Path) -> None:
        """A policy that says what the corpus says, chosen or rejected."""
        size = self.size
        said = sorted({(pair["prompt"], pair[side]) for pair in self.pairs for side in SIDES})
        tokenizer = byte_pairs((text for one in said for text in one), size.vocabulary)
        base = build_model(folder / "base", size.policy_size, self.seed, tokenizer, size.max_tokens)
        pairs = [{"prompt": prompt, "chosen": response} for prompt, response in said]
        losses = train_sft(base, folder, pairs, size.sft_epochs, size.sft_rate, self.seed, self.rule)
        print("SFT loss", losses, flush=True)

    def judge(self, setting: Setting) -> dict[str, Any]:
        """Heads on the frozen encoder; a setting's proxy size is the encoder's own here."""
        proxies = ProxiesConfig(
            base_model=str(self.base),
            train="head",
            share=setting.share,
            balance_temperature=setting.temperature,
            length_penalty=setting.length_penalty,
            length_baseline=False,
        )
        scratch = self.folder / "proxies"
        corpus = HeadWorld(self.pairs, self.base, scratch, {"max_tokens": self.size.proxy_tokens}, self.seed)
        began = time.process_time()
        margins, accuracy = corpus.judge(proxies, corpus.folder / "judged")
        seconds = round(time.process_time() - began, 1)
        shutil.rmtree(scratch)
        return {"margins": margins.tolist(), "accuracy": accuracy, "seconds": seconds}


def read_rows(data: Path, name: str, seed: int, held_out: bool) -> list[dict[str, Any]]:
    """The rows of a data set whose prompts a seed holds out, or all others."""
    rows: list[dict[str, Any]] = pq.read_table(data / FILES[name]).to_pylist()
    part = fold_of(hash64([row["prompt"] for row in rows], "parts"), PARTS)
    return [row for row, one in zip(rows, part, strict=True) if (one == seed % PARTS) == held_out]


def some(pairs: Iterable[dict[str, Any] | None], count: int, seed: int) -> list[dict[str, Any]]:
    """The pairs with the smallest hashes; their responses begin a line, which tokenizers part from the prompt."""
    known = [pair for pair in pairs if pair is not None]
    order = hash64([pair["pair_id"] for pair in known], f"{seed}/subset").argsort(kind="stable")
    return [known[row] | {side: f"\n{known[row][side]}" for side in SIDES} for row in order[:count].tolist()]


def labelled(row: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """A pair of the corpus; None where no rating tells its responses apart."""
    ratings = ratings_of(row)
    if not ratings:
        return {name: row[name] for name in ("pair_id", "prompt", *SIDES, "aspect")}
    return draw_pair(row["pair_id"], row["prompt"], (row["response_a"], row["response_b"]), ratings, seed)


def judged(row: dict[str, Any]) -> dict[str, Any] | None:
    """A held-out pair; None where the means of its ratings are equal."""
    ratings = ratings_of(row)
    if not ratings:
        return {name: row[name] for name in ("pair_id", "prompt", *SIDES)}
    gap = round(float(np.mean([a - b for a, b in ratings.values()])), 9)
    if not gap:
        return None
    texts = (row["response_a"], row["response_b"])[:: 1 if gap > 0 else -1]
    return {"pair_id": row["pair_id"], "prompt": row["prompt"], **dict(zip(SIDES, texts, strict=True))}


def ratings_of(row: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Both true ratings of each aspect; none where the row has no ratings."""
    aspects = sorted(name.removeprefix(RATING) for name in row if name.startswith(RATING))
    return {aspect: (row[f"{RATING}{aspect}"], row[f"score_b.{aspect}"]) for aspect in aspects}
