"""Seeded hashes of ids: random choices that do not depend on how the rows were split or ordered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def digest(*parts: str) -> str:
    """128-bit BLAKE2 digest of several texts, 32 hexadecimal digits."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def hash64(ids: Iterable[str], salt: str = "") -> np.ndarray:
    """A 64-bit hash of each id.

    Args:
        ids: n texts.
        salt: another salt gives independent hashes; put the seed and the purpose here.

    Returns:
        (n,) uint64.
    """
    keyed = hashlib.blake2b(digest_size=8, key=hashlib.blake2b(salt.encode(), digest_size=16).digest())

    def hashed(text: str) -> bytes:
        hasher = keyed.copy()  # half the time of one made anew, whose key is a block to hash
        hasher.update(text.encode())
        return hasher.digest()

    return np.frombuffer(b"".join(map(hashed, ids)), dtype="<u8")


def uniform(ids: Iterable[str], salt: str = "") -> np.ndarray:
    """A number in [0, 1) for each id, uniform over ids.

    Returns:
        (n,) float64.
    """
    return (hash64(ids, salt) >> np.uint64(11)) * 2.0**-53
