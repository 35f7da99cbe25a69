"""Rewards of texts whose features the proxies stage has already computed: the head alone, no backbone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdray.models.apart import read_apart_head
from pdray.rewards import RewardHead
from pdray.schema import FEATURES
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath


@dataclass(frozen=True)
class KnownRewards:
    """Rewards from features; picklable.

    Attributes:
        features: shards of the proxies stage.
        head: what reads them.
        width: H.
        first: where those that the head reads begin.
    """

    features: ShardedFolder
    head: RewardHead
    width: int
    first: int = 0

    def rows(self, shard: int) -> np.ndarray:
        """(n,) int64, the texts of a shard that have features, ascending."""
        return np.asarray(self.features.read(FEATURES, shard, ["row"])["row"].to_numpy().astype(np.int64))

    def read(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What a shard's features tell.

        Returns:
            the rows (n,) int64; rewards (n, outputs) float32; ``num_tokens`` (n,) int32; ``truncated`` (n,) bool.
        """
        table = self.features.read(FEATURES, shard, ["row", "feature", "num_tokens", "truncated"]).combine_chunks()
        flat = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return (
            np.asarray(table["row"].to_numpy().astype(np.int64)),
            self.head.rewards(flat.reshape(-1, self.width)[:, self.first :][:, : self.head.width].astype(np.float32)),
            np.asarray(table["num_tokens"].to_numpy()),
            np.asarray(table["truncated"].to_numpy(zero_copy_only=False)),
        )

    def number(self, shard: int) -> int:
        """Texts of a shard that have features."""
        marker = self.features.read_marker(shard)
        assert marker is not None, "the proxies are whole when scoring runs"
        return marker.rows(FEATURES)

    def failed(self, shard: int) -> list[list[Any]]:
        """[row, reason] of each text whose features could not be computed."""
        marker = self.features.read_marker(shard)
        assert marker is not None, "the proxies are whole when scoring runs"
        failed: list[list[Any]] = marker.facts["failed"]
        return failed


@dataclass(frozen=True)
class WithFeatures:
    """Chooses the texts that have features."""

    known: KnownRewards

    def __call__(self, shard: int, num_texts: int) -> np.ndarray:
        """See :class:`~pdray.engines.shards.RowChooser`."""
        return self.known.rows(shard)

    def number(self, shard: int, num_texts: int) -> int:
        """How many those are."""
        return self.known.number(shard)


@dataclass(frozen=True)
class WithoutFeatures:
    """Chooses the texts that an engine still has to read."""

    known: KnownRewards

    def __call__(self, shard: int, num_texts: int) -> np.ndarray:
        """See :class:`~pdray.engines.shards.RowChooser`."""
        return np.setdiff1d(np.arange(num_texts), self.known.rows(shard), assume_unique=True)

    def number(self, shard: int, num_texts: int) -> int:
        """How many those are."""
        return num_texts - self.known.number(shard)


def read_head(folder: StoragePath, name: str | None, dense: str | None = None) -> RewardHead:
    """The last layers of a model folder.

    Args:
        folder: of safetensors files.
        name: of the final linear layer, ``score`` or ``classifier``; None where a file of its own holds the head.
        dense: name of the dense layer with tanh that reads the features; None where the final layer reads them.
    """
    if name is None:
        head = read_apart_head(_local(folder))
        assert head is not None, f"{folder} has no head, which the proxies stage writes"
        return head
    weight, bias = _read_layer(folder, name)
    return RewardHead(weight, bias, *(_read_layer(folder, dense) if dense else (None, None)))


def _local(folder: StoragePath) -> Path:
    from pdray.models.place import copy_key
    from pdray.storage import node_copy

    return node_copy(folder, copy_key(folder))


def _read_layer(folder: StoragePath, name: str) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = (_read_tensor(folder, f"{name}.{part}") for part in ("weight", "bias"))
    assert weight is not None, f"{folder} has no tensor {name}.weight, which the proxies stage named"
    return weight, np.zeros(len(weight), np.float32) if bias is None else bias


def _read_tensor(folder: StoragePath, name: str) -> np.ndarray | None:
    from safetensors import safe_open

    local = _local(folder)
    index = local / "model.safetensors.index.json"
    file: Path = local / "model.safetensors"
    if index.is_file():
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if name not in places:
            return None
        file = local / places[name]
    with safe_open(str(file), framework="pt") as tensors:
        if name not in tensors.keys():  # noqa: SIM118 (it is no mapping)
            return None
        value: np.ndarray = tensors.get_tensor(name).float().numpy()
    return value
