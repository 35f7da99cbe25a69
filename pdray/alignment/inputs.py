"""The input of the training: kept pairs tokenised once per shard, in one seeded order, as files that ranks map.

    <run>/shared/alignment-input-<hash8>/
      tokens/shard-00017.arrow     the tokens of a shard's pairs, mapped into memory by every rank
      index/shard-00017.parquet    row-aligned: hash of the pair id, hash of the tokens, length, κ and Δφ of DFPO
      shards/shard-00017.json      the marker, written last
      order-<hash8>.arrow          the rows of all shards in the order of training

It lies beside the stage folders, because every β, loss and number of epochs reads the same pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.alignment.dfpo import dfpo_terms
from pdray.alignment.encode import EncodedPair, PairEncoder
from pdray.errors import UserError, user_errors
from pdray.filesystems import check_regular
from pdray.hashing import hash64
from pdray.models.loading import load_tokenizer_files
from pdray.progress import Progress
from pdray.responses import CutRule
from pdray.runtime.tasks import finished, outcomes
from pdray.schema import INPUT, KEPT, ORDER, PAIRS, TOKENISED
from pdray.shards import Markers, Outcome, ShardedFolder, attempted, run_rounds, shard_name
from pdray.storage import StoragePath

INDEX = "index"
TOKENS = "tokens"
BATCH_PAIRS = 512
SHARD_SECONDS = 1800.0
COLUMNS = ["pair_id", "aspect", "prompt", "chosen", "rejected"]
FACTS = ("pairs", "prompts_cut", "responses_cut", "empty")


@dataclass(frozen=True)
class PairInput:
    """The finished input; picklable.

    Attributes:
        tokens: file of each shard that has pairs, in the order of shards.
        order: the table :data:`~pdray.schema.ORDER`.
        pairs: rows of either.
        prompts_cut: pairs whose prompt lost its beginning.
        responses_cut: pairs of which a response lost its end.
        empty: kept pairs that are left out, because a response has no token.
        known: folder of what ``logprobs`` tells of the reference; None where it tells nothing.
    """

    tokens: list[str]
    order: str
    pairs: int
    prompts_cut: int
    responses_cut: int
    empty: int
    known: StoragePath | None = None


@dataclass(frozen=True)
class ShardEncoder:
    """Tokenises the pairs of a shard that are trained on; picklable.

    Attributes:
        read: gives the pairs of a shard, as :func:`kept_batches` does.
        target: the shards of the input.
        policy: folder of the tokenizer.
        rule: how a pair is cut.
        seed: of the order.
        weights: aspect -> weight of its margin in the divergence.
    """

    read: Callable[[int], Iterator[tuple[pa.RecordBatch, np.ndarray]]]
    target: ShardedFolder
    policy: str
    rule: CutRule
    seed: int
    weights: dict[str, float]

    def __call__(self, shard: int) -> Outcome:
        """Write a shard.

        Raises:
            UserError: the pairs are gone or damaged, or the tokenizer does not take them.
        """
        return attempted(shard, SHARD_SECONDS, self._write)

    def _write(self, shard: int) -> None:
        encoder = PairEncoder(policy_tokenizer(self.policy), self.rule)
        sink, facts = pa.BufferOutputStream(), dict.fromkeys(FACTS, 0)
        parts: list[pa.RecordBatch] = []
        with pa.ipc.new_stream(sink, TOKENISED) as stream:
            for batch, divergence in self.read(shard):
                ids, aspects, *texts = (batch[name].to_pylist() for name in COLUMNS)
                encoded = encoder.encode(*texts)
                whole = [not pair.is_empty for pair in encoded]
                pairs = list(compress(encoded, whole))
                stream.write_batch(_tokens(pairs))
                order = hash64(list(compress(ids, whole)), salt=f"alignment {self.seed}")
                terms = [values[whole] for values in dfpo_terms(aspects, divergence, self.weights)]
                parts.append(_index(order, pairs, terms))
                _count(facts, len(encoded), pairs)
        data = sink.getvalue()
        tokens_path(self.target, shard).write_bytes(data)
        index = pa.Table.from_batches(parts, INPUT)
        ids_sum = int(index["order"].to_numpy().sum(dtype=np.uint64))
        self.target.write(shard, {INDEX: index}, ids_sum, {**facts, "bytes": data.size})


def kept_batches(selection: ShardedFolder, shard: int) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The kept pairs of a shard in batches, each with its (n,) float64 PD; both tables are sorted by ``pair_id``.

    Raises:
        UserError: a table is gone or damaged.
    """
    pairs, start = selection.read(PAIRS, shard, ["pair_id", "pd", "kept"]), 0
    kept = pairs.filter(pairs["kept"])
    for batch in selection.batches(KEPT, shard, COLUMNS, BATCH_PAIRS):
        beside = kept.slice(start, len(batch))
        assert beside["pair_id"].to_pylist() == batch["pair_id"].to_pylist(), f"shard {shard}: kept are other pairs"
        start += len(batch)
        yield batch, beside["pd"].to_numpy()
    assert start == len(kept), f"shard {shard}: {start} kept pairs of {len(kept)}"


def tokens_path(target: ShardedFolder, shard: int) -> StoragePath:
    """Where the tokens of a shard lie."""
    return target.folder / TOKENS / f"{shard_name(shard)}.arrow"


@functools.lru_cache(maxsize=1)
def policy_tokenizer(policy: str) -> Any:
    """The tokenizer of the policy; one for all shards of a process.

    Raises:
        UserError: its files are damaged, or it has no EOS token.
    """
    tokenizer = load_tokenizer_files(policy)
    if tokenizer.eos_token is None:
        raise UserError(
            f"the tokenizer of alignment.policy {policy} has no EOS token; set one in its tokenizer_config.json"
        )
    return tokenizer


def _tokens(pairs: list[EncodedPair]) -> pa.RecordBatch:
    columns = [[getattr(pair, side) for pair in pairs] for side in ("prompt", "chosen", "rejected")]
    return pa.record_batch([pa.array(column, TOKENISED.field(0).type) for column in columns], schema=TOKENISED)


def _index(order: np.ndarray, pairs: list[EncodedPair], terms: list[np.ndarray]) -> pa.RecordBatch:
    keys = np.frombuffer(b"".join(pair.key() for pair in pairs), "<u8")
    lengths = np.array([pair.longest for pair in pairs], np.int32)
    columns = [pa.array(values) for values in (order, keys, lengths, *terms)]
    return pa.record_batch(columns, schema=INPUT)


def _count(facts: dict[str, int], num_read: int, pairs: list[EncodedPair]) -> None:
    facts["pairs"] += len(pairs)
    facts["empty"] += num_read - len(pairs)
    facts["prompts_cut"] += sum(pair.prompt_cut for pair in pairs)
    facts["responses_cut"] += sum(pair.response_cut for pair in pairs)


def prepare_input(encoder: ShardEncoder, progress: Progress) -> PairInput:
    """Tokenise what is missing and bring the pairs of all shards into their order.

    Raises:
        UserError: as raised by :class:`ShardEncoder`.
        ShardsFailedError: a shard failed in every round.
    """
    target = encoder.target
    forget_damaged(target)

    def attempt(missing: Sequence[int]) -> Iterable[Outcome]:
        with progress.counting_here("tokens of the kept pairs", len(missing), "shards") as counter, user_errors():
            for outcome in outcomes(encoder, missing, counter):
                counter.add(1)
                yield outcome

    markers = run_rounds(target, attempt, progress.note)
    sums = {name: sum(marker.facts[name] for marker in markers.values()) for name in FACTS}
    used = [shard for shard in range(target.num_shards) if markers[shard].facts["pairs"]]
    order = _ordered(target, markers, used, sums["pairs"])
    return PairInput([str(tokens_path(target, shard)) for shard in used], str(order), **sums)


def forget_damaged(target: ShardedFolder) -> None:
    """Take back the markers of shards whose tokens are not whole; a marker vouches for its tables alone."""
    sizes = (target.folder / TOKENS).sizes()
    for shard, marker in target.done().items():
        if sizes.get(tokens_path(target, shard).name) != marker.facts.get("bytes"):
            target.marker_path(shard).delete()


def _ordered(target: ShardedFolder, markers: Markers, used: list[int], pairs: int) -> StoragePath:
    """The table of the order, written once for these markers."""
    import ray

    path = target.folder / f"order-{target.digest(markers)[:8]}.arrow"
    if not is_order(path, pairs):
        # Some bytes for every pair: not in the driver, but no more than one task holds with ease.
        for _, ref in finished(write_order, [(target, used, pairs, path)]):
            with user_errors():
                ray.get(ref)
    return path


def is_order(path: StoragePath, pairs: int) -> bool:
    """Whether a whole table :data:`~pdray.schema.ORDER` of so many pairs stands there; it is mapped, not read."""
    try:
        check_regular(path.uri)
        with pa.memory_map(path.uri) as source, pa.ipc.open_stream(source) as stream:
            return bool(stream.schema == ORDER and sum(batch.num_rows for batch in stream) == pairs)
    except (OSError, pa.ArrowException):
        return False


def write_order(target: ShardedFolder, used: list[int], pairs: int, path: StoragePath) -> None:
    """Order the pairs of all shards by their seeded hashes; ties, which chance hardly makes, by their tokens.

    Args:
        target: has the index of each shard.
        used: shards with pairs, ascending.
        pairs: in all of them.
        path: where the table :data:`~pdray.schema.ORDER` goes.
    """
    columns = {field.name: np.empty(pairs, field.type.to_pandas_dtype()) for field in INPUT}
    start = 0
    for shard in used:
        table = target.read(INDEX, shard)
        for name, values in columns.items():
            values[start : start + len(table)] = table[name].to_numpy()
        start += len(table)
    assert start == pairs, f"{start} rows of {pairs}"
    row = np.lexsort((columns["key"], columns["order"]))
    found = [pa.array(row), *(pa.array(columns[name][row]) for name in ORDER.names[1:])]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ORDER) as stream:
        stream.write_batch(pa.record_batch(found, schema=ORDER))
    path.write_bytes(sink.getvalue())
