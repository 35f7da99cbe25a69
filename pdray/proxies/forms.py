"""The forms that a head can have, linear or with a layer of tanh units, fitted to the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pdray.proxies import fit, tanh
from pdray.proxies.features import PairFeatures
from pdray.proxies.fit import Fit, Pairs
from pdray.rewards import RewardHead

EPSILON = 2.0**-10  # a power of two: dividing by it rounds nothing


@dataclass(frozen=True)
class Scale:
    """How features are standardised; both (H,) float64.

    Attributes:
        mean: subtracted.
        spread: divided by.
    """

    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class ProxyPairs:
    """What a head is fitted to.

    Attributes:
        features: of n pairs.
        margin: (n,) what the loss subtracts.
        weight: (n,) of each pair.
    """

    features: PairFeatures
    margin: np.ndarray
    weight: np.ndarray

    def take(self, rows: np.ndarray) -> ProxyPairs:
        """Some of the pairs, by a mask or by positions."""
        return ProxyPairs(self.features.take(rows), self.margin[rows], self.weight[rows])


class Form(Protocol):
    """A kind of head."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        ...

    @property
    def strengths(self) -> Sequence[float]:
        """Of L2, to choose from, strongest first."""
        ...

    @property
    def search_steps(self) -> int | None:
        """After how many steps strengths can be told apart; None where a fit is always whole."""
        ...

    def fit(
        self, pairs: ProxyPairs, scale: Scale, l2: float, start: np.ndarray | None = None, steps: int | None = None
    ) -> Fit:
        """Fit a head to pairs, from weights to begin with, in so many steps at most."""
        ...

    def head(self, weights: np.ndarray, scale: Scale) -> RewardHead:
        """The head on raw features, with one output and without final bias."""
        ...


@dataclass(frozen=True)
class Linear:
    """One weight per feature.

    Attributes:
        dense: whether the model has a dense layer with tanh: the head is then one unit of it, ε times the reward.
    """

    dense: bool
    name = "linear"
    strengths = fit.STRENGTHS
    search_steps = None

    def fit(
        self, pairs: ProxyPairs, scale: Scale, l2: float, start: np.ndarray | None = None, steps: int | None = None
    ) -> Fit:
        """See :func:`pdray.proxies.fit.fit_head`; always whole."""
        return fit.fit_head(Pairs(pairs.features.difference / scale.spread, pairs.margin, pairs.weight), l2, start)

    def head(self, weights: np.ndarray, scale: Scale) -> RewardHead:
        """See :class:`Form`."""
        raw = weights / scale.spread
        if not self.dense:
            return _head(raw[None])
        # Less the mean, so that ε times the reward stays where tanh is straight.
        return _head(np.array([[1 / EPSILON]]), EPSILON * raw[None], -EPSILON * raw[None] @ scale.mean)


@dataclass(frozen=True)
class Tanh:
    """A layer of tanh units, then one weight for each.

    Attributes:
        units: how many.
        seed: of the weights to begin with.
    """

    units: int
    seed: int
    name = "tanh"
    strengths = tanh.STRENGTHS
    search_steps = tanh.SEARCH_STEPS

    def fit(
        self, pairs: ProxyPairs, scale: Scale, l2: float, start: np.ndarray | None = None, steps: int | None = None
    ) -> Fit:
        """See :func:`pdray.proxies.tanh.fit_tanh`."""
        features = pairs.features
        texts = ((features.values - scale.mean) / scale.spread).astype(np.float32)
        comparisons = tanh.Comparisons(texts, features.chosen, features.rejected, pairs.margin, pairs.weight)
        return tanh.fit_tanh(comparisons, l2, self.units, self.seed, start, steps or tanh.MAX_ITERATIONS)

    def head(self, weights: np.ndarray, scale: Scale) -> RewardHead:
        """See :class:`Form`."""
        dense, bias, final = (part.numpy() for part in tanh.split(torch.from_numpy(weights), self.units))
        raw = dense / scale.spread
        return _head(final[None], raw, bias - raw @ scale.mean)


def _head(weight: np.ndarray, dense: np.ndarray | None = None, dense_bias: np.ndarray | None = None) -> RewardHead:
    parts = [None if part is None else part.astype(np.float32) for part in (weight, dense, dense_bias)]
    assert parts[0] is not None
    return RewardHead(parts[0], np.zeros(len(weight), np.float32), *parts[1:])


def stacked(heads: list[RewardHead], num_units: int) -> RewardHead:
    """Heads of one output each as one head with κ outputs.

    Where they have a dense layer, every head reads units of its own in the common one; units that are left are zero.

    Args:
        heads: κ of them, all with a dense layer or none.
        num_units: of the common dense layer.
    """
    bias = np.zeros(len(heads), np.float32)
    if heads[0].dense is None:
        return RewardHead(np.concatenate([head.weight for head in heads]), bias)
    weight, dense = np.zeros((len(heads), num_units), np.float32), np.zeros((num_units, heads[0].width), np.float32)
    dense_bias, start = np.zeros(num_units, np.float32), 0
    for row, head in enumerate(heads):
        assert head.dense is not None
        own = slice(start, start + len(head.dense))
        assert own.stop <= num_units, "the aspects' units fit into the dense layer"
        weight[row, own], dense[own], dense_bias[own] = head.weight[0], head.dense, head.dense_bias
        start = own.stop
    return RewardHead(weight, bias, dense, dense_bias)
