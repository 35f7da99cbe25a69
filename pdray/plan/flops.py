"""Floating point operations of passes and trainings, and the bytes that a training sends. Pure functions.

A multiplication and an addition for each parameter and token make 2N a token forward and 4N backward (Kaplan et al.,
2020, arXiv 2001.08361, table 1); attention adds what grows with the length of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pdray.plan.shape import ModelShape

FORWARD, BACKWARD = 1.0, 2.0  # a backward pass is twice a forward one


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens of a sample of texts.

    Attributes:
        tokens: (n,) int64, n ≥ 1.
    """

    tokens: np.ndarray

    @cached_property
    def mean(self) -> float:
        """Tokens of a text."""
        return float(self.tokens.mean())

    @cached_property
    def square(self) -> float:
        """Mean of the squares."""
        return float((self.tokens.astype(np.float64) ** 2).mean())

    @property
    def longest(self) -> int:
        """Of the sample."""
        return int(self.tokens.max())

    def longest_of(self, count: int) -> float:
        """The longest of ``count`` texts drawn at random, in the mean: what a batch is padded to."""
        ordered = np.sort(self.tokens).astype(np.float64)
        below = np.arange(len(ordered) + 1) / len(ordered)
        return float((ordered * np.diff(below**count)).sum())


def forward(shape: ModelShape, texts: float, lengths: Lengths, with_head: bool) -> float:
    """Operations of one pass over some texts.

    Args:
        shape: of the model.
        texts: how many.
        lengths: of a sample of them.
        with_head: whether every token is multiplied with the head of a language model.
    """
    return texts * _of_text(shape, lengths.mean, lengths.square, with_head)


def forward_padded(shape: ModelShape, texts: float, length: float, with_head: bool) -> float:
    """The same for texts that are all padded to one length."""
    return texts * _of_text(shape, length, length**2, with_head)


def _of_text(shape: ModelShape, length: float, square: float, with_head: bool) -> float:
    weights = shape.active + (shape.head if with_head else 0)
    # Scores and weighted values: 2 · 2 · hidden for each pair of tokens, of which a causal model needs half.
    attention = 4 * shape.layers * shape.hidden * square / (2 if shape.causal else 1)
    return 2 * weights * length + attention


def training_passes(checkpointing: bool, adapters: bool) -> float:
    """How many forward passes a step of training costs: 3, one more where activations are computed again, and one
    less where frozen weights need no gradients of their own.
    """
    return FORWARD + BACKWARD + (FORWARD if checkpointing else 0) - (1.0 if adapters else 0.0)


def sent_bytes(parameters: float, width: int, zero_stage: int, passes: int) -> float:
    """Bytes that each worker sends in an optimizer step.

    Stages 0 and 1 add gradients up once a step (2 parameters' worth), stage 2 in every pass, and 1 and 2 gather the
    updated weights; stage 3 gathers the weights forward and backward and scatters gradients in every pass
    (Rajbhandari et al., 2020, arXiv 1910.02054, section 7).

    Args:
        parameters: that are trained, and in stage 3 all of them.
        width: bytes of each.
        zero_stage: 0 to 3.
        passes: forward and backward passes of a step.
    """
    rounds = {0: 2.0, 1: 2.0, 2: passes + 1.0, 3: 3.0 * passes}[zero_stage]
    return rounds * parameters * width
