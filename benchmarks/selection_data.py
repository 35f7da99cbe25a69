"""Data for the selection benchmark: one corpus, as shards with rewards for pdray and as flat tables for the others."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pdray.schema import (
    PAIRS,
    TEXTS,
    CorpusOutput,
    ProxiesOutput,
    ScoresOutput,
    dictionary_columns,
    pairs_schema,
    scores_schema,
)
from pdray.selection.divergence import preference_divergence, quantile_rank, reward_margins, scale_margins
from pdray.shards import ShardedFolder, shard_name
from pdray.stages import Upstream
from pdray.storage import StoragePath
from pdray.texts import text_tables

ASPECTS = ["helpfulness", "honesty", "truthfulness"]
GAMMA = 0.9
PENALTY = 0.001
TEXT_SHARES = {"prompt": 0.37, "chosen": 0.315, "rejected": 0.315}
PAIRS_PER_SHARD = 62_500
FINGERPRINT = "benchmark"


def num_shards(rows: int) -> int:
    """Shards of a corpus of so many pairs."""
    return -(-rows // PAIRS_PER_SHARD)


def upstream(folder: Path, rows: int) -> Upstream:
    """What the stages before the selection would hand over."""
    shards = num_shards(rows)
    return Upstream(
        folders={name: StoragePath(str(folder / name)) for name in ("corpus", "proxies", "scores")},
        fingerprints=dict.fromkeys(("corpus", "proxies", "scores"), FINGERPRINT),
        corpus=CorpusOutput(shards, rows, 2 * rows, ASPECTS, {}, conversational=False),
        proxies=ProxiesOutput([], dict.fromkeys(ASPECTS, PENALTY)),
        scores=ScoresOutput(shards, ASPECTS, 2 * rows),
    )


def make_data(folder: Path, rows: int, text_bytes: int, processes: int) -> None:
    """Write ``corpus`` and ``scores`` in shards and the same pairs as ``flat/*.parquet`` with a finished ``pd``.

    Nothing is done where an earlier call finished. Every pair has a prompt and two responses of its own, ``text_bytes``
    together, so that no text is saved by being shared.
    """
    done = folder / f"done-{rows}.json"
    if done.exists():
        return
    rng = np.random.default_rng(0)
    numbers = np.array_split(rng.permutation(rows), num_shards(rows))
    (folder / "flat").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        margins = list(pool.map(_margins, range(len(numbers)), map(len, numbers)))
        quantiles = [_quantile(margins, index) for index in range(len(ASPECTS))]
        write = partial(_write_shard, folder, len(numbers), text_bytes, quantiles)
        list(pool.map(write, range(len(numbers)), numbers))
    done.write_text(json.dumps({"rows": rows}))


def _rewards(shard: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own aspect (n,), rewards (2, n, κ) and tokens (2, n) of the chosen and rejected responses."""
    rng = np.random.default_rng([1, shard])
    return (
        rng.integers(0, len(ASPECTS), rows),
        rng.normal(size=(2, rows, len(ASPECTS))).astype(np.float32),
        rng.integers(20, 400, (2, rows)).astype(np.int32),
    )


def _margins(shard: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    own, rewards, tokens = _rewards(shard, rows)
    chosen, rejected = np.arange(rows), np.arange(rows, 2 * rows)
    lengths = tokens[0] - tokens[1]
    columns = [
        reward_margins(rewards[:, :, k].reshape(-1), chosen, rejected, lengths, PENALTY) for k in range(len(ASPECTS))
    ]
    return own, np.stack(columns, axis=1)


def _quantile(margins: list[tuple[np.ndarray, np.ndarray]], index: int) -> float:
    sizes = np.abs(np.concatenate([values[own != index, index] for own, values in margins]))
    rank = quantile_rank(GAMMA, len(sizes))
    return float(np.partition(sizes, rank - 1)[rank - 1])


def _write_shard(
    folder: Path, shards: int, text_bytes: int, quantiles: list[float], shard: int, numbers: np.ndarray
) -> None:
    rng, rows = np.random.default_rng([2, shard]), len(numbers)
    text = _texts(rng, rows, text_bytes)
    own, rewards, tokens = _rewards(shard, rows)
    labels = [ASPECTS[index] for index in own]
    ids = [f"pair-{number:09}" for number in numbers]
    _, margins = _margins(shard, rows)
    scaled = np.stack([scale_margins(margins[:, k], q) for k, q in enumerate(quantiles)], axis=1)
    flat = {"pair_id": ids, **text, "aspect": labels, "pd": preference_divergence(scaled, own)}
    one_group = {"row_group_size": rows, "data_page_size": 1 << 20}  # as a file of this size is written everywhere
    StoragePath(str(folder / "flat" / f"{shard_name(shard)}.parquet")).write_table(pa.table(flat), **one_group)

    corpus, scores = (
        ShardedFolder(StoragePath(str(folder / name)), FINGERPRINT, shards) for name in ("corpus", "scores")
    )
    prompts, responses = text["prompt"] * 2, text["chosen"] + text["rejected"]
    order = np.array(sorted(range(2 * rows), key=lambda row: (prompts[row], responses[row])))
    place = np.argsort(order)
    by_id = np.argsort(numbers)
    texts = text_tables([prompts[row] for row in order], [responses[row] for row in order], False)
    pairs = pa.table(
        [ids, labels, place[:rows].astype(np.int32), place[rows:].astype(np.int32), [None] * rows, [None] * rows],
        schema=pairs_schema([]),
    ).take(pa.array(by_id))
    columns = [rewards[:, :, k].reshape(-1)[order] for k in range(len(ASPECTS))]
    scored = pa.table([*columns, tokens.reshape(-1)[order], np.zeros(2 * rows, bool)], schema=scores_schema(ASPECTS))
    tables = {**texts, PAIRS: pairs}
    corpus.write(shard, tables, 0, {}, use_dictionary=dictionary_columns(tables))
    scores.write(shard, {TEXTS: scored}, 0, {})


def _texts(rng: np.random.Generator, rows: int, text_bytes: int) -> dict[str, list[str]]:
    """Random words: slices of a long text of them."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = np.array(["".join(rng.choice(letters, n)) for n in rng.integers(2, 9, 5000)])
    noise = " ".join(words[rng.integers(0, len(words), 2_000_000)])
    sizes = {name: round(share * text_bytes) for name, share in TEXT_SHARES.items()}
    return {
        name: [noise[start : start + size] for start in rng.integers(0, len(noise) - size, rows).tolist()]
        for name, size in sizes.items()
    }
