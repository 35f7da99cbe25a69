"""What the reference, the untouched policy, gives to every pair: computed once, kept by the pair's tokens.

    <run>/shared/reference-<hash8>/    one folder per policy, precision and attention
      part-<digest>.parquet            some pairs: hash of the tokens, log-probability of either response

Parts are only ever added, each as a whole, so a killed pass loses the pairs under way. No β, loss, number of epochs,
budget or token rule changes what stands there: a pair that was cut in another way has other tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.errors import UserError
from pdray.schema import REFERENCE
from pdray.storage import StoragePath

MIN_BATCHES = 16  # what a kill loses, and how often the progress moves
MAX_PARTS = 1000
FIRST_LOSS_TOLERANCE = 1e-3  # nats, by which the loss before any step may be off


@dataclass(frozen=True)
class ReferenceStore:
    """The log-probabilities that are known; picklable.

    Attributes:
        folder: of the parts.
    """

    folder: StoragePath

    def sound_parts(self) -> list[str]:
        """Names of the parts that can be read; damaged ones are deleted, to be computed again.

        Raises:
            OSError: the storage does not answer.
        """
        return [name for name in sorted(self.folder.sizes()) if self.is_sound(name)]

    def is_sound(self, name: str) -> bool:
        """Whether a part can be read; one that cannot is deleted.

        Raises:
            OSError: the storage does not answer.
        """
        path = self.folder / name
        try:
            path.read_table()
        except (pa.ArrowException, OSError):
            path.read_bytes()  # storage that does not answer is no reason to delete
            path.delete()
            return False
        return True

    def read(self, parts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of some parts.

        Returns:
            (n,) uint64 hashes of tokens, ascending, and (n, 2) float32 log-probabilities, chosen and rejected, nats.
        """
        tables = [(self.folder / name).read_table().cast(REFERENCE) for name in parts]
        table = pa.concat_tables([REFERENCE.empty_table(), *tables])
        keys, first = np.unique(table["key"].to_numpy(), return_index=True)
        return keys, np.stack([table[side].to_numpy()[first] for side in ("chosen", "rejected")], axis=1)

    def add(self, keys: np.ndarray, logps: np.ndarray) -> None:
        """Add a part.

        Args:
            keys: (n,) uint64.
            logps: (n, 2) float32, finite.
        """
        self.write(f"part-{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}.parquet", keys, logps)

    def write(self, name: str, keys: np.ndarray, logps: np.ndarray) -> None:
        """As :meth:`add`, under a name."""
        table = pa.table([pa.array(keys), pa.array(logps[:, 0]), pa.array(logps[:, 1])], schema=REFERENCE)
        (self.folder / name).write_table(table)


def check_finite(logps: np.ndarray) -> None:
    """Refuse a reference that does not know how likely a response is.

    Raises:
        UserError: with the number of pairs.
    """
    bad = int((~np.isfinite(logps)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"alignment.policy gives no finite log-probability to {bad} of {len(logps)} pairs before any training; "
            "set alignment.dtype to float32, or look at the policy's weights"
        )


def look_up(keys: np.ndarray, known: np.ndarray, logps: np.ndarray) -> np.ndarray:
    """The log-probabilities of some pairs, NaN for a pair that is not known.

    Args:
        keys: (n,) uint64.
        known: (m,) uint64, ascending.
        logps: (m, 2) float32.

    Returns:
        (n, 2) float32.
    """
    found = np.full((len(keys), 2), np.nan, np.float32)
    place = np.searchsorted(known, keys)
    hit = place < len(known)
    hit[hit] = known[place[hit]] == keys[hit]
    found[hit] = logps[place[hit]]
    return found


def chunks(positions: np.ndarray, lengths: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Positions in parts that are computed and kept together, the longest pairs of each first.

    Args:
        positions: (n,) of the pairs to compute.
        lengths: (n,) their tokens.
        batch: pairs of all workers in one forward pass.
    """
    size = max(MIN_BATCHES * batch, -(-len(positions) // MAX_PARTS))
    for start in range(0, len(positions), size):
        part = slice(start, start + size)
        # Pairs of like length share a batch, and the largest batch comes when nothing has been computed yet.
        yield positions[part][np.argsort(-lengths[part], kind="stable")]


def complete(
    keys: np.ndarray,
    lengths: np.ndarray,
    store: ReferenceStore,
    parts: list[str],
    known: tuple[np.ndarray, np.ndarray] | None,
    batch: int,
    compute: Callable[[np.ndarray], np.ndarray],
    keep: bool,
    count: Callable[[int, int], None],
) -> np.ndarray:
    """The log-probabilities of all pairs; what is not known is computed, each distinct pair once.

    Every worker calls this with the same arguments, but for ``keep``.

    Args:
        keys: (n,) uint64.
        lengths: (n,) tokens.
        store: what is known.
        parts: of the store, as one worker found them.
        known: what an earlier pass tells of pairs that the store does not have, as :meth:`ReferenceStore.read`.
        batch: pairs of all workers in one forward pass.
        compute: positions -> (len, 2) float32, by all workers together.
        keep: whether this worker adds what was computed to the store.
        count: told how many pairs are computed, of how many.

    Returns:
        (n, 2) float32.

    Raises:
        UserError: the policy gives no finite number to a pair.
    """
    found = look_up(keys, *store.read(parts))
    if known is not None:
        found = np.where(np.isnan(found), look_up(keys, *known), found)
    _, first = np.unique(keys, return_index=True)
    missing = np.sort(first[np.isnan(found[first, 0])])
    done = 0
    for chunk in chunks(missing, lengths[missing], batch):
        count(done, len(missing))
        found[chunk] = compute(chunk)
        check_finite(found[chunk])
        if keep:
            store.add(keys[chunk], found[chunk])
        done += len(chunk)
    repeated = np.isnan(found[:, 0])
    order = missing[np.argsort(keys[missing])]
    found[repeated] = look_up(keys[repeated], keys[order], found[order])
    return found
