"""Everything that the runs on one corpus share, and the runs themselves, each kept in a file of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import load_average
from benchmarks.method.evaluation import wins
from benchmarks.method.models import POLICY_SIZE, build_model
from benchmarks.method.selection import PairColumns, select
from benchmarks.method.training import swap, with_terms
from benchmarks.proxies import World
from benchmarks.proxy_heads import auroc
from pdray.config import ProxiesConfig
from pdray.corpus.conflict import conflicts
from pdray.demo import world
from pdray.demo.dpo import MAX_TOKENS, PAIRS_PER_STEP, Training, encode, log_probabilities, sample, train
from pdray.demo.sft import train_sft
from pdray.demo.words import ASPECTS, true_reward
from pdray.evaluation.accuracy import implicit_margins, is_right
from pdray.storage import StoragePath

# Trained on all pairs by another loss; every other name is a strategy, or the start of them all.
DFPO, SFT = "dfpo", "sft"
OF_PROXIES = ("pd", "pd_high", "pd_mid", DFPO)
SFT_LEVEL = 0.2  # of the corpus whose chosen responses SFT learns
OTHER_SEED = 1000  # more than a seed: another corpus, other draws
SPANS = np.full(len(ASPECTS), world.RATINGS - 1.0)


@dataclass(frozen=True)
class Size:
    """How much of everything.

    The rates of SFT and proxies are the first that were tried. β and the rate of DPO were chosen for ALL alone, on a
    seed outside the table, of ten that were tried: the highest win rate.

    Attributes:
        pairs: of a corpus; all trainings take as many steps as one pass over them.
        held_out: pairs, and prompts to answer.
        sft_epochs: passes of SFT over the chosen responses of as many other pairs.
        proxy_epochs: passes of a proxy over the pairs of its aspect.
    """

    pairs: int = 1600
    held_out: int = 600
    sft_epochs: float = 4
    proxy_epochs: float = 3
    sft_rate: float = 3e-3
    proxy_rate: float = 3e-3
    dpo_rate: float = 2e-4
    beta: float = 2.0


@dataclass(frozen=True)
class Setting:
    """What the paper leaves open or sweeps; the defaults are the product's, but for ρ and the size, the demo's.

    Attributes:
        budget: λ.
        gamma: γ.
        length_penalty: ρ, per token.
        temperature: τ.
        share: p_r.
        proxy_size: width of the proxies; the policy's is 64.
    """

    budget: float = 0.3
    gamma: float = 0.9
    length_penalty: float = 0.01
    temperature: float = 1.0
    share: float = 1.0
    proxy_size: int = 64


class Lab:
    """The corpus of one level and seed.

    Args:
        folder: of all corpora; what is there is used again.
        size: how much of everything.
        level: share of conflicts.
        seed: of corpus, held-out pairs, weights and order.
    """

    def __init__(self, folder: Path, size: Size, level: float, seed: int) -> None:
        self.size, self.level, self.seed = size, level, seed
        self.folder = folder / f"level-{level:g}-seed-{seed}"
        self.shared = folder / f"seed-{seed}"

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """The corpus."""
        pairs = world.make_pairs(self.size.pairs, self.level, self.seed)
        # Random draws go by the id; these are the ids that the results were made with.
        return [pair | {"pair_id": f"pair-{index:05}"} for index, pair in enumerate(pairs)]

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Pairs that nothing is trained on."""
        return world.make_held_out(self.size.held_out, self.seed)

    @cached_property
    def sft(self) -> Path:
        """Where every training of a seed starts, and the reference; it has learnt nothing from the corpora."""
        folder, unfinished = self.shared / "sft", self.shared / "unfinished"
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            base = build_model(unfinished / "base", POLICY_SIZE, self.seed)
            pairs = world.make_pairs(self.size.pairs, SFT_LEVEL, self.seed + OTHER_SEED)
            losses = train_sft(base, unfinished, pairs, self.size.sft_epochs, self.size.sft_rate, self.seed)
            print("SFT loss", losses, flush=True)
            unfinished.rename(folder)
        return folder

    @cached_property
    def encoded(self) -> list[dict[str, Any]]:
        """The pairs as the trainer reads them."""
        return encode(self.sft, self.pairs)

    @cached_property
    def said(self) -> list[str]:
        """What the SFT policy says to the held-out prompts."""
        return sample(self.sft, self.prompts, self.seed)

    @cached_property
    def reference(self) -> np.ndarray:
        """What the SFT policy gives to the held-out pairs, (n, 2) float32, nats."""
        return log_probabilities(self.sft, self.held_out)

    @property
    def prompts(self) -> list[str]:
        """Of the held-out pairs."""
        return [pair["prompt"] for pair in self.held_out]

    def run(self, strategy: str, name: str, setting: Setting) -> dict[str, Any]:
        """The figures of one run, made where they are not there yet.

        Args:
            strategy: what is trained on.
            name: of the setting.
            setting: its values.
        """
        return self._kept(f"run-{strategy}-{name}", lambda: self._run(strategy, name, setting))

    def start(self) -> dict[str, Any]:
        """By what the world's difficulty was chosen: the proxies' held-out accuracy and the SFT policy's."""
        accuracy = self._judged(Setting())["accuracy"]
        return self._kept(
            "start", lambda: {"proxies": accuracy, "sft": float((self.reference[:, 0] > self.reference[:, 1]).mean())}
        )

    def _run(self, strategy: str, name: str, setting: Setting) -> dict[str, Any]:
        facts: dict[str, Any] = {"level": self.level, "seed": self.seed, "strategy": strategy, "setting": name}
        if strategy == SFT:
            right, said = (
                np.full(len(self.held_out), 0.5),
                sample(self.sft, self.prompts, self.seed + OTHER_SEED),
            )
        else:
            policy = self.folder / "policy"
            facts |= self._train(strategy, setting, policy)
            right = is_right(implicit_margins(log_probabilities(policy, self.held_out), self.reference))
            said = sample(policy, self.prompts, self.seed)
            shutil.rmtree(policy)
        return facts | {
            "right": right.tolist(),
            "won": wins(said, self.said).tolist(),
            "reward": float(np.mean([true_reward(text) for text in said])),
            "words": float(np.mean([len(text.split()) for text in said])),
            "load_average": load_average(),
        }

    def _train(self, strategy: str, setting: Setting, policy: Path) -> dict[str, Any]:
        judged, encoded, size = self._judged(setting), self.encoded, self.size
        columns = self._columns(np.array(judged["margins"]))
        began = time.process_time()
        selected = select(columns, "all" if strategy == DFPO else strategy, setting.budget, setting.gamma, self.seed)
        pairs = [
            swap(encoded[row]) if swapped else encoded[row]
            for row, swapped in zip(selected.rows, selected.swapped, strict=True)
        ]
        if strategy == DFPO:
            aspects = [self.pairs[row]["aspect"] for row in selected.rows]
            pairs = with_terms(pairs, aspects, selected.divergence[selected.rows])
        loss = DFPO if strategy == DFPO else "dpo"
        training = Training(loss, size.pairs // PAIRS_PER_STEP, size.beta, size.dpo_rate, self.seed)
        losses = train(self.sft, pairs, training, policy)
        seconds = time.process_time() - began + (judged["seconds"] if strategy in OF_PROXIES else 0)
        sign = np.where(selected.swapped, -1.0, 1.0)[:, None]
        own = columns.own[selected.rows]
        conflict = conflicts(columns.ratings, columns.own, SPANS)
        facts = {
            "pairs": len(pairs),
            "conflict": float(conflicts(columns.ratings[selected.rows] * sign, own, SPANS).mean()),
            "longer": float((np.subtract(*columns.tokens)[selected.rows] > 0).mean()),
            "losses": losses,
            "cpu_seconds": round(seconds, 1),
        }
        told = strategy in OF_PROXIES or strategy == "pd_ratings"
        return facts | ({"auroc": auroc(selected.divergence, conflict)} if told else {})

    def _columns(self, margins: np.ndarray) -> PairColumns:
        ratings = [
            [pair[f"score_chosen.{one}"] - pair[f"score_rejected.{one}"] for one in ASPECTS] for pair in self.pairs
        ]
        return PairColumns(
            [pair["pair_id"] for pair in self.pairs],
            np.array([ASPECTS.index(pair["aspect"]) for pair in self.pairs]),
            margins,
            np.array(ratings, np.float64),
            np.array([[len(pair[f"{side}_ids"]) for pair in self.encoded] for side in ("chosen", "rejected")]),
        )

    def _judged(self, setting: Setting) -> dict[str, Any]:
        """Margins, held-out accuracy and CPU seconds of the proxies, one for each aspect as in the paper."""
        values = {name: value for name, value in asdict(setting).items() if name not in ("budget", "gamma")}
        return self._kept(
            "proxies-" + "-".join(f"{value:g}" for value in values.values()), lambda: self._judge(setting)
        )

    def _judge(self, setting: Setting) -> dict[str, Any]:
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
        corpus = World(self.pairs, base, scratch, {"max_tokens": MAX_TOKENS}, self.seed)
        began = time.process_time()
        margins, accuracy = corpus.judge(proxies, corpus.folder / "judged")
        seconds = round(time.process_time() - began, 1)
        shutil.rmtree(scratch)
        return {"margins": margins.tolist(), "accuracy": accuracy, "seconds": seconds}

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The content of a JSON file, made where it is not there."""
        path = StoragePath(str(self.folder.absolute() / f"{name.replace(' ', '')}.json"))
        if not path.exists():
            path.write_json(make())
        found: dict[str, Any] = path.read_json()
        return found
