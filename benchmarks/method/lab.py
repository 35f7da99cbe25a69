"""What the comparisons on all corpora share, and the runs themselves, each kept in a file of its own."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import load_average
from benchmarks.method.selection import PairColumns, select
from benchmarks.method.training import swap, with_terms
from benchmarks.proxy_heads import auroc
from pdray.corpus.conflict import conflicts
from pdray.demo.dpo import PAIRS_PER_STEP, Training, encode, log_probabilities, train
from pdray.evaluation.accuracy import implicit_margins, is_right
from pdray.responses import CutRule
from pdray.storage import StoragePath

# Trained on all pairs by another loss; every other name is a strategy, or the start of them all.
DFPO, SFT = "dfpo", "sft"
OF_PROXIES = ("pd", "pd_high", "pd_mid", DFPO)
OTHER_SEED = 1000  # more than a seed: another corpus, other draws


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        pairs: of a corpus; all trainings take as many steps as one pass over them.
        held_out: pairs to judge by.
        sft_epochs: passes of SFT over its texts.
        sft_rate: learning rate of SFT.
        dpo_rate: learning rate of DPO and DFPO.
        beta: β of both.
    """

    pairs: int
    held_out: int
    sft_epochs: float
    sft_rate: float
    dpo_rate: float
    beta: float


@dataclass(frozen=True)
class Setting:
    """What the paper leaves open or sweeps; the defaults are the product's, but for ρ and the size, the demo's.

    Attributes:
        budget: λ.
        gamma: γ.
        length_penalty: ρ, per token.
        temperature: τ.
        share: p_r.
        proxy_size: width of the world's proxies; the policy's is 64.
    """

    budget: float = 0.3
    gamma: float = 0.9
    length_penalty: float = 0.01
    temperature: float = 1.0
    share: float = 1.0
    proxy_size: int = 64


class Lab(ABC):
    """One corpus of one seed.

    Args:
        folder: of its runs; what is there is used again.
        shared: of the start of its trainings.
        level: which corpus: the share of conflicts in the demo's world, or the name of a data set.
        seed: of corpus, held-out pairs, weights and order.
        size: how much of everything.
        rule: how the policy's texts are cut.
    """

    def __init__(self, folder: Path, shared: Path, level: float | str, seed: int, size: Size, rule: CutRule) -> None:
        self.folder, self.shared, self.level, self.seed, self.size, self.rule = folder, shared, level, seed, size, rule

    @property
    @abstractmethod
    def pairs(self) -> list[dict[str, Any]]:
        """The corpus: ``pair_id``, texts, ``aspect`` and, where they are known, both true ratings of every aspect."""

    @property
    @abstractmethod
    def held_out(self) -> list[dict[str, Any]]:
        """Pairs that nothing is trained on, labelled by what counts in the end."""

    @abstractmethod
    def make_start(self, folder: Path) -> None:
        """Write the model folder in which every training of a seed starts, and which is the reference."""

    @abstractmethod
    def judge(self, setting: Setting) -> dict[str, Any]:
        """``margins`` of the proxies (n, κ), their held-out ``accuracy`` by aspect, and CPU ``seconds``."""

    def answers(self, policy: Path, seed: int) -> dict[str, Any]:
        """Figures of what a policy says, where a true reward is known."""
        del policy, seed
        return {}

    @cached_property
    def aspects(self) -> list[str]:
        """The κ aspects, sorted."""
        return sorted({pair["aspect"] for pair in self.pairs})

    @cached_property
    def sft(self) -> Path:
        """Where every training of a seed starts, and the reference."""
        folder, unfinished = self.shared / "sft", self.shared / "unfinished"
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            self.make_start(unfinished)
            unfinished.rename(folder)
        return folder

    @cached_property
    def encoded(self) -> list[dict[str, Any]]:
        """The pairs as the trainer reads them."""
        return encode(self.sft, self.pairs, self.rule)

    @cached_property
    def reference(self) -> np.ndarray:
        """What the SFT policy gives to the held-out pairs, (n, 2) float32, nats."""
        return log_probabilities(self.sft, self.held_out, self.rule)

    @cached_property
    def ratings(self) -> np.ndarray | None:
        """True rating of the chosen response less that of the rejected one, (n, κ) float64; None where unknown."""
        if f"score_chosen.{self.aspects[0]}" not in self.pairs[0]:
            return None
        return np.array(
            [
                [pair[f"score_chosen.{one}"] - pair[f"score_rejected.{one}"] for one in self.aspects]
                for pair in self.pairs
            ],
            np.float64,
        )

    @cached_property
    def spans(self) -> np.ndarray:
        """Largest rating less the smallest, (κ,)."""
        sides = ("chosen", "rejected")
        rated = [[pair[f"score_{side}.{one}"] for pair in self.pairs for side in sides] for one in self.aspects]
        return np.ptp(np.array(rated, np.float64), axis=1)

    def run(self, strategy: str, name: str, setting: Setting) -> dict[str, Any]:
        """The figures of one run, made where they are not there yet.

        Args:
            strategy: what is trained on.
            name: of the setting.
            setting: its values.
        """
        return self._kept(f"run-{strategy}-{name}", lambda: self._run(strategy, name, setting))

    def start(self, setting: Setting) -> dict[str, Any]:
        """The proxies' held-out accuracy, and on how many held-out pairs the SFT policy finds the better likelier."""
        accuracy = self.judged(setting)["accuracy"]
        return self._kept(
            "start", lambda: {"proxies": accuracy, "sft": float((self.reference[:, 0] > self.reference[:, 1]).mean())}
        )

    def _run(self, strategy: str, name: str, setting: Setting) -> dict[str, Any]:
        facts: dict[str, Any] = {"level": self.level, "seed": self.seed, "strategy": strategy, "setting": name}
        groups = {prompt: number for number, prompt in enumerate(dict.fromkeys(self.prompts))}
        facts["prompts"] = [groups[prompt] for prompt in self.prompts]
        if strategy == SFT:
            facts |= {"right": [0.5] * len(self.held_out)} | self.answers(self.sft, self.seed + OTHER_SEED)
        else:
            policy = self.folder / "policy"
            facts |= self._train(strategy, setting, policy)
            margins = implicit_margins(log_probabilities(policy, self.held_out, self.rule), self.reference)
            facts |= {"right": is_right(margins).tolist()} | self.answers(policy, self.seed)
            shutil.rmtree(policy)
        return facts | {"load_average": load_average()}

    @property
    def prompts(self) -> list[str]:
        """Of the held-out pairs."""
        return [pair["prompt"] for pair in self.held_out]

    def _train(self, strategy: str, setting: Setting, policy: Path) -> dict[str, Any]:
        judged, encoded, size = self.judged(setting), self.encoded, self.size
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
        facts = {
            "pairs": len(pairs),
            "longer": float((np.subtract(*columns.tokens)[selected.rows] > 0).mean()),
            "losses": losses,
            "cpu_seconds": round(seconds, 1),
        }
        if self.ratings is None:
            return facts
        sign = np.where(selected.swapped, -1.0, 1.0)[:, None]
        kept, own = self.ratings[selected.rows] * sign, columns.own[selected.rows]
        facts["conflict"] = float(np.nanmean(conflicts(kept, own, self.spans)))
        told = strategy in OF_PROXIES or strategy == "pd_ratings"
        conflict = conflicts(self.ratings, columns.own, self.spans)
        return facts | ({"auroc": auroc(selected.divergence, conflict)} if told else {})

    def _columns(self, margins: np.ndarray) -> PairColumns:
        return PairColumns(
            [pair["pair_id"] for pair in self.pairs],
            np.array([self.aspects.index(pair["aspect"]) for pair in self.pairs]),
            margins,
            np.full(margins.shape, np.nan) if self.ratings is None else self.ratings,
            np.array([[len(pair[f"{side}_ids"]) for pair in self.encoded] for side in ("chosen", "rejected")]),
        )

    def judged(self, setting: Setting) -> dict[str, Any]:
        """What :meth:`judge` finds, kept."""
        values = {name: value for name, value in asdict(setting).items() if name not in ("budget", "gamma")}
        return self._kept("proxies-" + "-".join(f"{value:g}" for value in values.values()), lambda: self.judge(setting))

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The content of a JSON file, made where it is not there."""
        path = StoragePath(str(self.folder.absolute() / f"{name.replace(' ', '')}.json"))
        if not path.exists():
            path.write_json(make())
        found: dict[str, Any] = path.read_json()
        return found
