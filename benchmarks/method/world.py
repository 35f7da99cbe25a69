"""The comparison on the demo's world, whose true rewards are known."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.method.evaluation import wins
from benchmarks.method.lab import OTHER_SEED, Lab, Setting, Size
from benchmarks.method.models import POLICY_SIZE, build_model
from benchmarks.proxies import SIDES, World
from pdray.aspects import UNIFIED
from pdray.config import ProxiesConfig
from pdray.demo import world
from pdray.demo.dpo import MAX_TOKENS, RULE, sample
from pdray.demo.sft import train_sft
from pdray.demo.words import true_reward
from pdray.proxies.pairs import AspectPairs, of_all_aspects
from pdray.storage import StoragePath

SFT_LEVEL = 0.2  # of the corpus whose chosen responses SFT learns


@dataclass(frozen=True)
class WorldSize(Size):
    """How much of everything.

    The rates of SFT and proxies are the first that were tried. β and the rate of DPO were chosen for ALL alone, on a
    seed outside the table, of ten that were tried: the highest win rate.

    Attributes:
        held_out: pairs, and prompts to answer.
        sft_epochs: passes of SFT over the chosen responses of as many other pairs.
        proxy_epochs: passes of a proxy over the pairs of its aspect.
        proxy_rate: learning rate of the proxies.
    """

    pairs: int = 1600
    held_out: int = 600
    sft_epochs: float = 4
    proxy_epochs: float = 3
    sft_rate: float = 3e-3
    proxy_rate: float = 3e-3
    dpo_rate: float = 2e-4
    beta: float = 2.0


class UnifiedWorld(World):
    """A corpus that one reward model judges, which is trained on the pairs of all aspects together."""

    def _trained(
        self, chosen: list[AspectPairs], proxies: ProxiesConfig, folder: StoragePath
    ) -> tuple[np.ndarray, np.ndarray, list[float]]:
        self.aspects = [UNIFIED]  # whose accuracy is told
        return super()._trained([of_all_aspects(chosen, proxies.max_pairs_per_aspect)], proxies, folder)


class WorldLab(Lab):
    """The corpus of one level and seed.

    Args:
        folder: of all corpora.
        size: how much of everything.
        level: share of conflicts.
        seed: see :class:`~benchmarks.method.lab.Lab`.
    """

    size: WorldSize
    level: float

    def __init__(self, folder: Path, size: WorldSize, level: float, seed: int) -> None:
        super().__init__(folder / f"level-{level:g}-seed-{seed}", folder / f"seed-{seed}", level, seed, size, RULE)

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """The corpus."""
        pairs = world.make_pairs(self.size.pairs, self.level, self.seed)
        # Random draws go by the id; these are the ids that the results were made with.
        return [pair | {"pair_id": f"pair-{index:05}"} for index, pair in enumerate(pairs)]

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Labelled by the mean of the true ratings."""
        return world.make_held_out(self.size.held_out, self.seed)

    @cached_property
    def spans(self) -> np.ndarray:
        """Of the scale, which all aspects share."""
        return np.full(len(self.aspects), world.RATINGS - 1.0)

    @cached_property
    def overall(self) -> np.ndarray:  # type: ignore[override]
        """By the mean of the ratings as an annotator has them, each with the words' clarity: else it is any of five.

        These draws are others than those of the words, so that the label is no better than a corpus's own.
        """
        rng = np.random.default_rng([round(100 * self.level), self.seed])
        true = np.array(
            [[[pair[f"score_{side}.{one}"] for one in self.aspects] for pair in self.pairs] for side in SIDES]
        )
        any_of_five = rng.integers(1, world.RATINGS + 1, true.shape)
        chosen, rejected = np.where(rng.random(true.shape) < world.CLARITY, true, any_of_five).sum(axis=2)
        gap: np.ndarray = np.sign(chosen - rejected)
        return gap

    @cached_property
    def said(self) -> list[str]:
        """What the SFT policy says to the held-out prompts."""
        return sample(self.sft, self.prompts, self.seed)

    def make_start(self, folder: Path) -> None:
        """A policy that has learnt nothing from the corpora."""
        base = build_model(folder / "base", POLICY_SIZE, self.seed)
        pairs = world.make_pairs(self.size.pairs, SFT_LEVEL, self.seed + OTHER_SEED)
        losses = train_sft(base, folder, pairs, self.size.sft_epochs, self.size.sft_rate, self.seed)
        print("SFT loss", losses, flush=True)

    def answers(self, policy: Path, seed: int) -> dict[str, Any]:
        """Answers beside those of the SFT policy by true reward, and how good and long they are."""
        said = sample(policy, self.prompts, seed)
        return {
            "won": wins(said, self.said).tolist(),
            "reward": float(np.mean([true_reward(text) for text in said])),
            "words": float(np.mean([len(text.split()) for text in said])),
        }

    def judge(self, setting: Setting) -> dict[str, Any]:
        """Proxies of all weights, one for each aspect as in the paper."""
        return self._judge(setting, World)

    def judge_together(self, setting: Setting) -> dict[str, Any]:
        """One model more of the same kind, as for ``raf`` with ``proxies.unified``."""
        return self._judge(setting, UnifiedWorld)

    def _judge(self, setting: Setting, kind: type[World]) -> dict[str, Any]:
        scratch, size = self.folder / "proxies", self.size
        base = build_model(self.folder / f"base-{setting.proxy_size}", setting.proxy_size, self.seed)
        proxies = ProxiesConfig(
            base_model=str(base),
            train="all",
            kind="separate",
            share=setting.share,
            balance_temperature=setting.temperature,
            length_penalty=setting.length_penalty,
            length_baseline=False,
            epochs=size.proxy_epochs,
            learning_rate=size.proxy_rate,
        )
        corpus = kind(self.pairs, base, scratch, {"max_tokens": MAX_TOKENS}, self.seed)
        began = time.process_time()
        margins, accuracy = corpus.judge(proxies, corpus.folder / "judged")
        seconds = round(time.process_time() - began, 1)
        shutil.rmtree(scratch)
        return {"margins": margins.tolist(), "accuracy": accuracy, "seconds": seconds}
