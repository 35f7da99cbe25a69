"""How a frozen backbone reads a text: as one text, or prompt and response apart; which of both predicts better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pdray.proxies.backbone import write_encoder, write_heads, write_identity
from pdray.proxies.features import PairFeatures
from pdray.proxies.forms import Scale, stacked
from pdray.rewards import RewardHead
from pdray.schema import RewardModel
from pdray.storage import StoragePath

Name = Literal["together", "apart"]
SIMPLEST_FIRST: tuple[Name, ...] = ("together", "apart")


@dataclass(frozen=True)
class Reading:
    """One way to read.

    Attributes:
        name: ``together`` or ``apart``.
        blocks: widths of the blocks of its H features, in order.
        first: where its features begin among those of a text.
        tanh: whether a head may have a layer of tanh units.
        final, dense: of ``together``, see :class:`~pdray.proxies.backbone.Backbone`.
    """

    name: Name
    blocks: tuple[int, ...]
    first: int = 0
    tanh: bool = True
    final: str | None = None
    dense: str | None = None

    @property
    def num_features(self) -> int:
        """H."""
        return sum(self.blocks)

    def scale(self, features: PairFeatures) -> Scale:
        """How its features are standardised: each by its spread, and each block to the weight of one feature.

        A penalty on weights otherwise counts an embedding of 384 numbers 384 times and a length once.
        """
        mean, spread = features.moments()
        if len(self.blocks) == 1:
            return Scale(mean, spread)
        return Scale(mean, spread * np.sqrt(np.repeat(self.blocks, self.blocks)))


def prepare(name: Name, base_model: str, seed: int, folder: StoragePath, first: int) -> Reading:
    """Write the model folder whose outputs are the features of a reading.

    Args:
        name: of the reading.
        base_model: model folder of the backbone.
        seed: of weights that it lacks.
        folder: where to write.
        first: see :class:`Reading`.

    Raises:
        UserError: the backbone cannot be read so.
    """
    if name == "apart":
        from pdray.engines.pair_features import blocks

        size = write_encoder(base_model, seed, folder)
        return Reading(name, tuple(width for _, width in blocks(size)), first)
    backbone = write_identity(base_model, seed, folder)
    return Reading(name, (backbone.num_features,), first, backbone.dense is not None, backbone.head, backbone.dense)


def write_model(
    reading: Reading, base_model: str, seed: int, heads: list[RewardHead], aspects: list[str], folder: StoragePath
) -> None:
    """Write the proxies as one model folder with an output for each aspect.

    Args:
        reading: what the heads read.
        base_model: model folder of the backbone.
        seed: as in :func:`prepare`.
        heads: of one output, for each aspect.
        aspects: their names.
        folder: where to write.
    """
    if reading.name == "apart":
        units = sum(0 if head.dense is None else len(head.dense) for head in heads)
        write_encoder(base_model, seed, folder, stacked(heads, units), aspects)
    else:
        write_heads(base_model, seed, stacked(heads, reading.num_features), aspects, folder)


def handed_over(reading: Reading, path: str, aspects: list[str]) -> RewardModel:
    """The model folder of :func:`write_model` for the stages that follow."""
    return RewardModel(path, list(aspects), reading.final, reading.dense, reading.first)


def best(losses: dict[Name, float]) -> Name:
    """The reading with the smallest validation loss; of equal ones the simplest."""
    return min(losses, key=lambda name: (losses[name], SIMPLEST_FIRST.index(name)))
