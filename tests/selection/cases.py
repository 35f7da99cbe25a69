"""Small sharded corpora with scores, and the whole method on one array beside the stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import SelectionConfig
from pdray.schema import (
    PAIRS,
    TEXTS,
    CorpusOutput,
    CrossfitOutput,
    LogprobsOutput,
    ProxiesOutput,
    ScoresOutput,
    crossfit_schema,
    logprobs_schema,
    pairs_schema,
    scores_schema,
    text_type,
)
from pdray.selection.stage import STAGE
from pdray.selection.strategies.random import random_keys
from pdray.shards import ShardedFolder
from pdray.stages import StageResult, Upstream
from pdray.storage import StoragePath
from pdray.texts import text_tables
from tests.stages import FINGERPRINT, finished, join, run_stage

ASPECTS = ["a", "b", "c"]
MODELS = ["policy", "reference"]


@dataclass
class Case:
    """Pairs before they are sharded; every pair has two texts of its own and a prompt.

    Attributes:
        ids: n ids.
        own: (n,) int, index into :data:`ASPECTS`.
        rewards: (n, 2, κ) float32, of the chosen and the rejected response.
        tokens: (n, 2) int32.
        conflict: (n,) bool, or None for a corpus without ratings.
        ratings: (n, 2, κ) float64, true ratings of the chosen and the rejected response; None is 0 for all.
        penalty: ρ.
        chat: whether texts are messages.
        logps: (n, 2, 2) float32, of the chosen and the rejected response by policy and reference; None is −1 for all.
        overall: n labels; None is none for all.
        sources: n names; None is none for all.
        unified: (n, 2) float32, rewards of one model of all aspects; None is no such model.
        losses: (n,) float64, of cross-fitted policies; None is 0 for all.
    """

    ids: list[str]
    own: np.ndarray
    rewards: np.ndarray
    tokens: np.ndarray
    conflict: np.ndarray | None = None
    penalty: float = 0.01
    chat: bool = False
    ratings: np.ndarray | None = None
    logps: np.ndarray | None = None
    overall: list[str | None] | None = None
    sources: list[str | None] | None = None
    unified: np.ndarray | None = None
    losses: np.ndarray | None = None

    @property
    def labels(self) -> list[str]:
        """What the rewards are of."""
        return ASPECTS if self.unified is None else [*ASPECTS, "unified"]

    @property
    def known_logps(self) -> np.ndarray:
        """As ``logps``."""
        return np.full((len(self.ids), 2, 2), -1, np.float32) if self.logps is None else self.logps

    @property
    def own_margins(self) -> np.ndarray:
        """(n,) float64, Δr − ρΔlen of the own aspect, as float32 holds it."""
        with np.errstate(invalid="ignore"):
            margins = self.rewards[:, 0].astype(float) - self.rewards[:, 1].astype(float)
        lengths = (self.tokens[:, 0] - self.tokens[:, 1]).astype(float)
        own = margins[np.arange(len(self.ids)), self.own] - self.penalty * lengths
        return own.astype(np.float32).astype(float)


def random_case(seed: int = 5, rows: int = 3000, odd: float = 0.01, ids: list[str] | None = None) -> Case:
    """Many ties, and some NaN and infinities."""
    rng = np.random.default_rng(seed)
    rewards = rng.integers(-2, 3, (rows, 2, len(ASPECTS))).astype(np.float32)
    rewards = np.where(rng.random(rewards.shape) < odd, rng.choice([np.nan, np.inf, -np.inf], rewards.shape), rewards)
    return Case(
        ids=ids or [f"pair-{i:05}" for i in rng.permutation(rows)],
        own=rng.integers(0, len(ASPECTS), rows),
        rewards=rewards.astype(np.float32),
        tokens=rng.integers(1, 9, (rows, 2)).astype(np.int32),
        conflict=rng.random(rows) < 0.2,
    )


def divergence(case: Case, gamma: float = 0.9, weights: dict[str, float] | None = None) -> np.ndarray:
    """PD of every pair, the plain way."""
    lengths = (case.tokens[:, 0] - case.tokens[:, 1]).astype(float)
    with np.errstate(invalid="ignore"):
        margins = case.rewards[:, 0].astype(float) - case.rewards[:, 1].astype(float)
    return summed(case, margins - case.penalty * lengths[:, None], gamma, weights or {})


def summed(case: Case, margins: np.ndarray, gamma: float, weights: dict[str, float]) -> np.ndarray:
    """PD from (n, κ) margins."""
    total = np.zeros(len(case.ids))
    for index, aspect in enumerate(ASPECTS):
        margin, other = margins[:, index].astype(np.float32), case.own != index
        sizes = np.sort(np.abs(margin[np.isfinite(margin) & other]))
        quantile = float(sizes[int(np.ceil(gamma * len(sizes))) - 1]) if len(sizes) else float("nan")
        values = np.where(np.isfinite(margin), margin, np.nan).astype(float)
        scaled = np.sign(values) if quantile == 0 else np.clip(values / quantile, -1, 1)
        weight = weights.get(aspect, 1.0)
        total -= np.where(other, weight * scaled, 0.0) if weight else 0.0
    return total


def keys_of(strategy: str, case: Case, pd: np.ndarray, seed: int) -> np.ndarray:
    """What each strategy sorts by, said once more."""
    finite = np.sort(pd[np.isfinite(pd)])
    if strategy == "random":
        return np.array(random_keys(case.ids, seed))
    if strategy == "selective":
        assert case.losses is not None
        return case.losses
    if strategy in LIKELY:
        return LIKELY[strategy](case, pd)
    if strategy == "raf":
        assert case.unified is not None
        with np.errstate(invalid="ignore"):
            margins = case.unified.astype(float) @ [1, -1]
        return -(margins - case.penalty * (case.tokens @ [1, -1])).astype(np.float32).astype(float)
    return {
        "pd": pd,
        "pd_ratings": pd,
        "all": pd,
        "overall": pd,
        "mean_rating": pd,
        "pd_high": -pd,
        "pd_mid": np.abs(pd - finite[(len(finite) + 1) // 2 - 1]),
        "longest": -case.tokens[:, 0].astype(float),
    }[strategy]


def implicit(case: Case) -> np.ndarray:
    (chosen, rejected) = case.known_logps.astype(float).transpose(1, 2, 0)
    return (chosen[0] - chosen[1]) - (rejected[0] - rejected[1])


def gap(case: Case, model: int) -> np.ndarray:
    per_token = case.known_logps.astype(float)[:, :, model] / case.tokens
    return per_token[:, 0] - per_token[:, 1]


def z(values: np.ndarray, pd: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(pd) & np.isfinite(values)]
    return (values - known.mean()) / known.std()


def probability(values: np.ndarray, pd: np.ndarray) -> np.ndarray:
    known = np.sort(values[np.isfinite(pd) & np.isfinite(values)])
    low, high = (known[int(np.ceil(round(level * len(known), 9))) - 1] for level in (0.01, 0.99))
    return (np.clip(np.where(np.isfinite(values), values, np.nan), low, high) - low) / (high - low)


def fusion(case: Case, pd: np.ndarray) -> np.ndarray:
    one, other = probability(case.own_margins, pd), probability(implicit(case), pd)
    with np.errstate(invalid="ignore"):
        fused = one * other / (one * other + (1 - one) * (1 - other))
    return -np.where(one + other == 1, 0.5, fused)


LIKELY = {
    "implicit_margin": lambda case, pd: -implicit(case),
    "implicit_margin_small": lambda case, pd: implicit(case),
    "perplexity_gap": lambda case, pd: -gap(case, 1),
    "alignment_potential": lambda case, pd: z(np.abs(gap(case, 0)), pd) - z(case.own_margins, pd),
    "pd_potential": lambda case, pd: z(np.abs(gap(case, 0)), pd) + z(pd, pd),
    "fusion": fusion,
}


def by_hand(
    case: Case,
    budget: float = 0.3,
    gamma: float = 0.9,
    strategy: str = "pd",
    seed: int = 0,
    weights: dict[str, float] | None = None,
) -> list[tuple[float, str, float]]:
    """Key, id and PD of the kept pairs in order: the whole method on one array."""
    pd = divergence(case, gamma, weights)
    if strategy == "pd_ratings":
        assert case.ratings is not None
        pd = summed(case, case.ratings[:, 0] - case.ratings[:, 1], gamma, weights or {})
    keys = np.where(labels_of(case, strategy) == 0, np.nan, keys_of(strategy, case, pd, seed))
    rows = zip(keys.tolist(), case.ids, pd.tolist(), strict=True)
    found = sorted(row for row in rows if np.isfinite(row[0]) and np.isfinite(row[2]))
    return found if strategy in ("all", "overall", "mean_rating") else found[: int(round(budget * len(case.ids), 6))]


def labels_of(case: Case, strategy: str) -> np.ndarray:
    """1 where a pair keeps its label, −1 where its responses change places, 0 where it has none."""
    if strategy == "overall":
        return np.array([{"chosen": 1, "rejected": -1}.get(label or "", 0) for label in case.overall or []])
    if strategy == "mean_rating":
        assert case.ratings is not None
        means = case.ratings.sum(axis=2)
        return np.nan_to_num(np.sign(means[:, 0] - means[:, 1])).astype(int)
    return np.ones(len(case.ids), int)


def write_case(root: Path, case: Case, num_shards: int, seed: int = 0) -> Upstream:
    """Shard a case into ``root`` as the stages before would, pairs dealt at random."""
    kappa, num_pairs = len(ASPECTS), len(case.ids)
    place = np.random.default_rng(seed).integers(0, num_shards, num_pairs)
    corpus, scores, logprobs, crossfit = (
        ShardedFolder(StoragePath(str(root / f"{stage}-test")), FINGERPRINT, num_shards)
        for stage in ("corpus", "scores", "logprobs", "crossfit")
    )
    for shard in range(num_shards):
        rows = sorted(np.flatnonzero(place == shard), key=lambda row: case.ids[row])
        texts, pairs, rewards, logps = _shard_tables(case, [int(row) for row in rows])
        corpus.write(shard, {**texts, PAIRS: pairs}, 0, {})
        scores.write(shard, {TEXTS: rewards}, 0, {})
        logprobs.write(shard, {TEXTS: logps}, 0, {})
        losses = np.zeros(len(rows)) if case.losses is None else case.losses[rows]
        columns = {"pair_id": [case.ids[row] for row in rows], "loss": losses}
        crossfit.write(shard, {PAIRS: pa.table(columns, crossfit_schema())}, 0, {})
    counts = np.bincount(case.own, minlength=kappa).tolist()
    rated = ASPECTS if case.conflict is not None else []
    return join(
        finished(
            "corpus",
            corpus.folder,
            CorpusOutput(
                num_shards,
                num_pairs,
                2 * num_pairs,
                ASPECTS,
                dict(zip(ASPECTS, counts, strict=True)),
                case.chat,
                rated,
                sum(label in SIDES for label in case.overall or []),
            ),
        ),
        finished("proxies", StoragePath(str(root)), ProxiesOutput([], dict.fromkeys(case.labels, case.penalty))),
        finished("scores", scores.folder, ScoresOutput(num_shards, case.labels, 2 * num_pairs)),
        finished("logprobs", logprobs.folder, LogprobsOutput(num_shards, MODELS, 2 * num_pairs)),
        finished("crossfit", crossfit.folder, CrossfitOutput(num_shards, num_pairs)),
    )


def _shard_tables(case: Case, rows: list[int]) -> tuple[dict[str, pa.Table], pa.Table, pa.Table, pa.Table]:
    """Texts, pairs, scores and log-probabilities.

    The two texts of a pair stand beside one another, the chosen one first or second.
    """
    swapped = [row % 2 for row in rows]
    texts: list[dict[str, Any]] = []
    rewards: list[np.ndarray] = []
    likely: list[np.ndarray] = []
    tokens: list[int] = []
    for row, swap in zip(rows, swapped, strict=True):
        for side in (1, 0) if swap else (0, 1):
            texts.append({"prompt": text(case, "prompt", row), "response": text(case, SIDES[side], row)})
            rewards.append(case.rewards[row, side])
            likely.append(case.known_logps[row, side])
            tokens.append(int(case.tokens[row, side]))
    rated = ASPECTS if case.conflict is not None else []
    pairs: dict[str, Any] = {
        "pair_id": [case.ids[row] for row in rows],
        "aspect": [ASPECTS[case.own[row]] for row in rows],
        "chosen_row": [2 * place + swap for place, swap in enumerate(swapped)],
        "rejected_row": [2 * place + 1 - swap for place, swap in enumerate(swapped)],
        "overall": [case.overall[row] if case.overall else None for row in rows],
        "source": [case.sources[row] if case.sources else None for row in rows],
    }
    for aspect in rated:
        column = ASPECTS.index(aspect)
        for place, side in enumerate(SIDES):
            known = case.ratings is not None
            pairs[f"score_{side}.{aspect}"] = case.ratings[rows, place, column].tolist() if known else [0.0] * len(rows)
    if case.conflict is not None:
        pairs["conflict"] = case.conflict[rows].tolist()
    matrix = np.reshape(np.array(rewards, np.float32), (len(texts), len(ASPECTS)))
    scores = {f"reward.{aspect}": matrix[:, index] for index, aspect in enumerate(ASPECTS)}
    if case.unified is not None:
        sides = [(row, side) for row, swap in zip(rows, swapped, strict=True) for side in ((1, 0) if swap else (0, 1))]
        scores["reward.unified"] = np.array([case.unified[row, side] for row, side in sides], np.float32)
    facts = {"num_tokens": tokens, "truncated": [False] * len(tokens)}
    by_model = np.reshape(np.array(likely, np.float32), (len(texts), len(MODELS)))
    logps = {f"logp.{model}": by_model[:, index] for index, model in enumerate(MODELS)}
    return (
        text_tables([one["prompt"] for one in texts], [one["response"] for one in texts], case.chat),
        pa.table(pairs, pairs_schema(rated)),
        pa.table(scores | facts, scores_schema(case.labels)),
        pa.table(logps | facts, logprobs_schema(MODELS)),
    )


SIDES = ("chosen", "rejected")


def text(case: Case, part: str, row: int) -> Any:
    """The prompt, chosen or rejected text of a pair."""
    plain = f"{part} of {case.ids[row]}"
    return [{"role": "user", "content": plain}] if text_type(case.chat) != pa.string() else plain


def select(root: Path, case: Case, num_shards: int, **config: Any) -> StageResult:
    """Shard a case and run the stage on it."""
    return run_stage(
        STAGE, root, upstream=write_case(root, case, num_shards), selection=SelectionConfig(**{"rank": "none"} | config)
    )


def read(root: Path, table: str, name: str = "test") -> pa.Table:
    """A table of the selection, all shards."""
    files = sorted((root / f"selection-{name}" / table).glob("*.parquet"))
    return pa.concat_tables([StoragePath(str(file)).read_table() for file in files])
