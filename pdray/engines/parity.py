"""The comparison that comes before a pass: does the engine give the rewards that Transformers gives?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.config import EngineConfig
from pdray.engines.encode import ModelEncoder
from pdray.engines.engine import EngineOptions, Rewards, load_reference
from pdray.errors import UserError, user_errors
from pdray.hashing import hash64
from pdray.responses import CutRule
from pdray.runtime import remote
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath, node_copy
from pdray.texts import read_texts
from pdray.tokens import TokenRule

if TYPE_CHECKING:
    from pdray.engines.shards import RowChooser

SHARDS_AT_ONCE = 8
SALT = "parity"
FEW = 3  # texts; a rank correlation of fewer says nothing


@dataclass(frozen=True)
class Figures:
    """How near an engine comes to Transformers in float32.

    Attributes:
        max_error: largest difference of a reward.
        rank: lowest rank correlation of one output over the sampled texts; None where it cannot be computed.
        spread: largest difference in standard deviations of that output over the sampled texts; None likewise.
    """

    max_error: float
    rank: float | None = None
    spread: float | None = None


def take_sample(corpus: ShardedFolder, rows: RowChooser | None, count: int) -> pa.Table:
    """Some texts of a corpus: those of the smallest hash in the first shards by hash that hold enough.

    Reads no shard that it does not sample from, each in a Ray task.

    Returns:
        at most ``count`` rows of ``shard``, ``row``, ``prompt`` and ``response``.
    """
    import ray

    task = remote(_sample_shard, num_cpus=0.1)
    order = np.argsort(hash64(map(str, range(corpus.num_shards)), SALT), kind="stable").tolist()
    parts: list[pa.Table] = []
    for start in range(0, len(order), SHARDS_AT_ONCE):
        shards = order[start : start + SHARDS_AT_ONCE]
        parts += ray.get([task.remote(corpus, rows, shard, count) for shard in shards])
        if sum(map(len, parts)) >= count:
            break
    found = pa.concat_tables(parts)
    names = [f"{one['shard']}/{one['row']}" for one in found.select(["shard", "row"]).to_pylist()]
    return found.take(np.argsort(hash64(names, SALT), kind="stable")[:count])


def _sample_shard(corpus: ShardedFolder, rows: RowChooser | None, shard: int, count: int) -> pa.Table:
    texts = read_texts(corpus, shard)
    numbers = np.arange(len(texts)) if rows is None else rows(shard, len(texts))
    chosen = np.sort(numbers[np.argsort(hash64((f"{shard}/{row}" for row in numbers), SALT), kind="stable")[:count]])
    head = pa.table({"shard": pa.array([shard] * len(chosen), pa.int32()), "row": pa.array(chosen, pa.int32())})
    return head.append_column("prompt", texts["prompt"].take(chosen)).append_column(
        "response", texts["response"].take(chosen)
    )


def reference_rewards(
    sample: pa.Table,
    folders: list[StoragePath],
    digests: list[str],
    rule: TokenRule | CutRule,
    max_unknown: float,
    options: EngineOptions,
    resources: dict[str, float],
) -> Rewards:
    """Rewards of sampled texts from Transformers in float32, one text at a time, in a Ray task of its own.

    One text at a time shares neither batching nor padding with any engine; a process of its own gives all memory back.

    Args:
        sample: see :func:`take_sample`.
        folders: model folders.
        digests: of their content, for copies on the nodes.
        rule: how a text is cut.
        max_unknown: largest share of tokens that a tokenizer may not know.
        options: of the engine that will be compared.
        resources: ``num_cpus`` and ``num_gpus`` of the task.

    Returns:
        (texts, outputs of all models) float32.

    Raises:
        UserError: a folder lacks weights, or its tokenizer does not know the words of the texts.
    """
    import ray

    task = remote(_reference, max_calls=1, max_retries=2, **resources)
    with user_errors():
        rewards: Rewards = ray.get(task.remote(sample, folders, digests, rule, max_unknown, options))
    return rewards


def _reference(
    sample: pa.Table,
    folders: list[StoragePath],
    digests: list[str],
    rule: TokenRule | CutRule,
    max_unknown: float,
    options: EngineOptions,
) -> Rewards:
    copies = [node_copy(folder, digest) for folder, digest in zip(folders, digests, strict=True)]
    encoder = ModelEncoder(copies, rule, options.output)
    encoded = encoder.encode(sample)
    encoder.check_unknown(encoded, max_unknown, options.section)
    parts = [load_reference(str(copy), options).score(ids) for copy, ids in zip(copies, encoded.ids, strict=True)]
    return np.concatenate(parts, axis=1)


def compare(sample: pa.Table, rewards: Rewards, reference: Rewards, labels: list[str]) -> pa.Table:
    """A row per text and output: ``shard``, ``row``, ``output``, ``reward``, ``reference`` and ``error`` float32.

    Args:
        sample: n texts.
        rewards: (n, outputs) of the engine.
        reference: (n, outputs) of Transformers.
        labels: names of the outputs.
    """
    tables = [
        pa.table(
            {
                "shard": sample["shard"],
                "row": sample["row"],
                "output": pa.array([label] * len(sample), pa.string()),
                "reward": pa.array(rewards[:, column], pa.float32()),
                "reference": pa.array(reference[:, column], pa.float32()),
                "error": pa.array(_error(rewards[:, column], reference[:, column]), pa.float32()),
            }
        )
        for column, label in enumerate(labels)
    ]
    return pa.concat_tables(tables)


def _error(rewards: Rewards, reference: Rewards) -> Rewards:
    same = (rewards == reference) | (np.isnan(rewards) & np.isnan(reference))
    with np.errstate(invalid="ignore"):
        error = np.abs(rewards - reference)
    return np.where(same, 0, np.where(np.isfinite(error), error, np.inf)).astype(np.float32)


def measure(parity: pa.Table) -> Figures:
    """The figures of a comparison; see :func:`compare`."""
    if not len(parity):
        return Figures(0.0)
    shape = len(pc.unique(parity["output"])), -1  # compare puts the texts of one output side by side
    columns = [parity[name].to_numpy().astype(np.float64).reshape(shape) for name in ("reward", "reference", "error")]
    ranks, spreads = [], []
    for rewards, reference, error in zip(*columns, strict=True):
        deviation = float(np.std(reference)) if np.isfinite(reference).all() else 0.0
        if len(reference) >= FEW and deviation > 0:
            ranks.append(rank_correlation(rewards, reference))
            spreads.append(float(error.max()) / deviation)
    return Figures(float(columns[2].max()), min(ranks, default=None), max(spreads, default=None))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's ρ of two (n,) arrays; −1 where one of them is constant or not finite and the other is not."""
    from scipy.stats import spearmanr

    if not np.isfinite(one).all() or np.ptp(one) == 0:
        return -1.0
    return float(spearmanr(one, other).statistic)


def require_parity(parity: pa.Table, prompts: list[Any], config: EngineConfig) -> Figures:
    """The figures of a comparison, where they are good enough.

    In float32 the largest difference decides. Half precision rounds rewards of any size, so there the order of the
    texts decides, and the difference beside the spread of the rewards.

    Args:
        parity: see :func:`compare`.
        prompts: of the sampled texts, for the message.
        config: thresholds, engine and dtype.

    Raises:
        UserError: they are not; names the worst text, both values, the threshold and the cure.
    """
    figures = measure(parity)
    broken = _broken_rule(figures, config)
    if broken is None:
        return figures
    position = int(np.argmax(parity["error"].to_numpy()))
    worst = parity.slice(position, 1).to_pylist()[0]
    prompt = " ".join(str(prompts[position % len(prompts)]).split())[:60]
    raise UserError(
        f"{config.engine} in {config.resolved_dtype} and Transformers disagree: text {worst['row']} of corpus shard "
        f"{worst['shard']} (prompt {prompt!r}) gets {worst['reward']:.6g} for {worst['output']} from {config.engine} "
        f"and {worst['reference']:.6g} from Transformers in float32; {broken}"
    )


def _broken_rule(figures: Figures, config: EngineConfig) -> str | None:
    section = config.section
    if config.resolved_dtype == "float32":
        if figures.max_error <= config.parity_tolerance:
            return None
        cure = "" if config.engine == "transformers" else f"set {section}.engine to transformers, or "
        return (
            f"they are {figures.max_error:.3g} apart where {section}.parity_tolerance is {config.parity_tolerance:g}; "
            f"{cure}raise {section}.parity_tolerance if you accept it"
        )
    cure = f"set {section}.dtype to float32, or change the threshold if you accept it"
    if not math.isfinite(figures.max_error):
        return f"only one of them is a number; {cure}"
    if figures.rank is not None and figures.rank < config.parity_rank:
        return (
            f"the rank correlation is {figures.rank:.3f} where {section}.parity_rank is {config.parity_rank:g}; {cure}"
        )
    if figures.spread is not None and figures.spread > config.parity_spread:
        return (
            f"they are {figures.spread:.3g} standard deviations apart where {section}.parity_spread is "
            f"{config.parity_spread:g}; {cure}"
        )
    return None
