"""What the comparisons on all corpora share, and the runs themselves, each kept in a file of its own."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import load_average
from benchmarks.method.selection import PairColumns, select
from benchmarks.method.training import swap, with_terms
from benchmarks.proxy_heads import auroc
from pdray.corpus.conflict import conflicts
from pdray.crossfit.folds import folds_of
from pdray.crossfit.losses import validation_loss
from pdray.demo.dpo import PAIRS_PER_STEP, Training, encode, log_probabilities, train
from pdray.evaluation.accuracy import implicit_margins, is_right
from pdray.responses import CutRule
from pdray.selection import strategies
from pdray.selection.strategy import LogProbs, Model
from pdray.storage import StoragePath

# All pairs by another loss, the method under another setting, and the start of them all; the rest are strategies.
DFPO, PD_NL, SFT = "dfpo", "pd_nl", "sft"
SELECTS_AS = {DFPO: "all", PD_NL: "pd"}
BY_DIVERGENCE = ("pd", "pd_high", "pd_mid", PD_NL, DFPO)
OF_PROXIES = (*BY_DIVERGENCE, "fusion", "alignment_potential", "pd_potential")
FOLDS = 2  # of the cross-fitted trainings; the product's default repeats them three times, here they are made once
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
        temperature: τ; None for no balancing.
        share: p_r.
        proxy_size: width of the world's proxies; the policy's is 64.
    """

    budget: float = 0.3
    gamma: float = 0.9
    length_penalty: float = 0.01
    temperature: float | None = 1.0
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

    def judge_together(self, setting: Setting) -> dict[str, Any]:
        """As :meth:`judge`, for one reward model of all aspects; ``margins`` are (n, 1)."""
        raise NotImplementedError

    @property
    def overall(self) -> np.ndarray:
        """(n,) by an overall label: 1 for the chosen response, −1 for the rejected one, 0 for neither."""
        raise NotImplementedError

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
    def tokens(self) -> np.ndarray:
        """Of the responses that the policy reads, (2, n) int64."""
        return np.array([[len(pair[f"{side}_ids"]) for pair in self.encoded] for side in ("chosen", "rejected")])

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
        encoded, size, name = self.encoded, self.size, SELECTS_AS.get(strategy, strategy)
        columns, spent = self._columns(strategy, setting)
        began = time.process_time()
        selected = select(columns, name, setting.budget, setting.gamma, self.seed)
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
        seconds = time.process_time() - began + spent
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
        opposed = conflicts(self.ratings, columns.own, self.spans)
        if strategy in (*BY_DIVERGENCE, "pd_ratings"):
            return facts | {"auroc": auroc(selected.divergence, opposed)}
        asks = strategies.find(name)
        told = asks.unified or asks.logps or asks.crossfit
        return facts | ({"auroc": auroc(selected.keys, opposed)} if told else {})

    def _columns(self, strategy: str, setting: Setting) -> tuple[PairColumns, float]:
        """What a strategy reads, and the CPU seconds of the models that made it."""
        asks, judged = strategies.find(SELECTS_AS.get(strategy, strategy)), self.judged(setting)
        columns = self._bare(np.array(judged["margins"]))
        spent = judged["seconds"] if strategy in OF_PROXIES else 0.0
        if asks.label_of == "overall":
            columns = replace(columns, overall=self.overall)
        if asks.unified:
            together = self._kept(f"unified-{_text(setting)}", lambda: self.judge_together(setting))
            columns, spent = replace(columns, unified=np.array(together["margins"])[:, 0]), together["seconds"]
        if asks.logps:
            known, seconds = self.log_probs(asks.logps)
            columns, spent = replace(columns, known=known), spent + seconds
        if asks.crossfit:
            crossfit, reference = self._kept("crossfit", self._crossfit), self.start_logps
            columns = replace(columns, losses=np.array(crossfit["losses"]))
            spent += crossfit["seconds"] + reference["seconds"]
        return columns, spent

    def _bare(self, margins: np.ndarray) -> PairColumns:
        return PairColumns(
            [pair["pair_id"] for pair in self.pairs],
            np.array([self.aspects.index(pair["aspect"]) for pair in self.pairs]),
            margins,
            np.full(margins.shape, np.nan) if self.ratings is None else self.ratings,
            self.tokens,
        )

    def judged(self, setting: Setting) -> dict[str, Any]:
        """What :meth:`judge` finds, kept."""
        return self._kept(f"proxies-{_text(setting)}", lambda: self.judge(setting))

    def log_probs(self, models: tuple[Model, ...]) -> tuple[LogProbs, float]:
        """What the models that a strategy names give to the corpus, and their CPU seconds.

        A strategy of one model is about the policy before its training: SFT. One of two compares a policy that DPO has
        trained a little, by one pass over the pairs of ``random``, with SFT as its reference.
        """
        start = self.start_logps
        reference, seconds = np.array(start["logps"]).T, start["seconds"]
        policy = reference
        if len(models) > 1:
            tried = self._kept("logps-tried", self._tried)
            policy, seconds = np.array(tried["logps"]).T, seconds + tried["seconds"]
        return LogProbs(policy, reference, self.tokens), seconds

    @property
    def start_logps(self) -> dict[str, Any]:
        """What the SFT policy gives to the corpus: ``logps`` (n, 2), and CPU ``seconds``; kept."""
        return self._kept("logps-sft", lambda: self._read_logps(self.sft))

    def _read_logps(self, policy: Path) -> dict[str, Any]:
        began = time.process_time()
        logps = log_probabilities(policy, self.pairs, self.rule)
        return {"logps": logps.tolist(), "seconds": round(time.process_time() - began, 1)}

    def _tried(self) -> dict[str, Any]:
        folder, default = self.folder / "tried", Setting()
        drawn = select(
            self._bare(np.zeros((len(self.pairs), len(self.aspects)))), "random", default.budget, 1.0, self.seed
        )
        seconds = self._one_pass(drawn.rows, folder)
        found = self._read_logps(folder)
        shutil.rmtree(folder)
        return found | {"seconds": round(found["seconds"] + seconds, 1)}

    def _crossfit(self) -> dict[str, Any]:
        """Losses of every pair under a policy that saw no pair of its prompt, as the stage ``crossfit`` has them."""
        folder, prompts = self.folder / "crossfit", [pair["prompt"] for pair in self.pairs]
        fold = folds_of(pa.chunked_array([prompts]), FOLDS, 0, self.seed)
        reference, losses, seconds = np.array(self.start_logps["logps"]), np.full(len(fold), np.nan), 0.0
        for number in range(FOLDS):
            inside = np.flatnonzero(fold == number)
            seconds += self._one_pass(np.flatnonzero(fold != number), folder)
            began = time.process_time()
            logps = log_probabilities(folder, [self.pairs[row] for row in inside], self.rule)
            losses[inside] = validation_loss(logps.T, reference[inside].T, self.size.beta)
            seconds += time.process_time() - began
            shutil.rmtree(folder)
        return {"losses": losses.tolist(), "seconds": round(seconds, 1)}

    def _one_pass(self, rows: np.ndarray, folder: Path) -> float:
        """Train by DPO, once over some pairs; returns CPU seconds."""
        size, pairs = self.size, [self.encoded[row] for row in rows]
        began = time.process_time()
        training = Training("dpo", len(rows) // PAIRS_PER_STEP, size.beta, size.dpo_rate, self.seed)
        train(self.sft, pairs, training, folder)
        return time.process_time() - began

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The content of a JSON file, made where it is not there."""
        path = StoragePath(str(self.folder.absolute() / f"{name.replace(' ', '')}.json"))
        if not path.exists():
            path.write_json(make())
        found: dict[str, Any] = path.read_json()
        return found


def _text(setting: Setting) -> str:
    """What decides the proxies, for the name of a file."""
    values = [value for name, value in asdict(setting).items() if name not in ("budget", "gamma")]
    return "-".join("none" if value is None else f"{value:g}" for value in values)
