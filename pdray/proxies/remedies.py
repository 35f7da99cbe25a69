"""How strong the remedies against length bias are: as given, or found where margins do not go with length.

τ acts while a head is fitted, and so does ρ in the reading ``residual``: finding either fits the head again for every
value that is tried. ρ in the reading ``eq16`` is subtracted from finished margins and needs no other fit.

Where both are to be found they are not identified: for every τ some ρ makes the correlation 0. τ comes first, as near
to 0 as balanced sampling gets, and ρ takes what is left, so that it is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pdray.config import ProxiesConfig
from pdray.margins import final_margin
from pdray.proxies.length import scoring_penalty, uncorrelated_penalty
from pdray.proxies.quality import rank_correlation

# Below, almost only the larger side is drawn; above, both sides alike.
LOWEST, HIGHEST = 0.1, 10.0
STEPS = 12
DOUBLINGS = 6
TOLERANCE = 0.002  # of a rank correlation


@dataclass(frozen=True)
class Remedies:
    """How strong they are for one proxy.

    Attributes:
        temperature: τ of balanced sampling; None is none.
        loss_penalty: ρ of the loss.
        penalty: ρ that scoring subtracts.
        correlation: rank correlation of length difference and margin that was reached on the pairs on which one of
            these was found; None where all were given.
    """

    temperature: float | None
    loss_penalty: float
    penalty: float
    correlation: float | None = None


def given(proxies: ProxiesConfig) -> Remedies:
    """Those that the config gives; what it leaves to be found is off."""
    penalty = proxies.training_penalty
    return Remedies(proxies.training_temperature, penalty, scoring_penalty(penalty, proxies.length_penalty_form))


def find(proxies: ProxiesConfig, length_difference: np.ndarray, margins: Callable[[Remedies], np.ndarray]) -> Remedies:
    """Those that the config gives, and where it says auto, those at which margins do not go with length.

    Args:
        proxies: the settings.
        length_difference: (n,) tokens, Δlen of pairs that no fit saw.
        margins: (n,) Δr of these pairs under the proxy that is fitted with such remedies.
    """
    found = given(proxies)

    def correlation(remedies: Remedies) -> float:
        margin = final_margin(margins(remedies), length_difference, remedies.penalty)
        return rank_correlation(length_difference, margin) or 0.0

    if proxies.balance_temperature == "auto":
        ends = math.log(HIGHEST), math.log(LOWEST)
        off = found
        log = nearest_zero(lambda value: correlation(replace(off, temperature=math.exp(value))), *ends)
        found = replace(found, temperature=math.exp(log))
    if proxies.length_penalty == "auto" and proxies.length_penalty_form == "residual":
        found = replace(found, loss_penalty=_residual(found, length_difference, margins, correlation))
    elif proxies.length_penalty == "auto":
        found = replace(found, penalty=uncorrelated_penalty(length_difference, margins(found)))
    is_found = "auto" in (proxies.balance_temperature, proxies.length_penalty)
    return replace(found, correlation=correlation(found)) if is_found else found


def _residual(
    remedies: Remedies,
    length_difference: np.ndarray,
    margins: Callable[[Remedies], np.ndarray],
    correlation: Callable[[Remedies], float],
) -> float:
    """ρ of the loss at which Δr alone does not go with length, the other remedies being what they are."""

    def measure(penalty: float) -> float:
        return correlation(replace(remedies, loss_penalty=penalty))

    # What a finished margin would have to lose per token has the sign and about the size of what the loss needs.
    end = uncorrelated_penalty(length_difference, margins(remedies))
    start = measure(0.0)
    for _ in range(DOUBLINGS):
        if not end or start * measure(end) <= 0:
            break
        end *= 2
    return nearest_zero(measure, 0.0, end)


def nearest_zero(measure: Callable[[float], float], start: float, end: float) -> float:
    """Where a function is nearest to 0 of all places that a bisection tries, the first of equals.

    A function with one sign at both ends is taken to have no root between them: the end that is nearer to 0.

    Args:
        measure: monotone but for noise.
        start, end: in either order.
    """
    tried = {start: measure(start), end: measure(end)}
    if tried[start] * tried[end] < 0:
        rising = tried[end] > 0
        for _ in range(STEPS):
            middle = (start + end) / 2
            tried[middle] = measure(middle)
            if abs(tried[middle]) <= TOLERANCE:
                break
            if (tried[middle] > 0) == rising:
                end = middle
            else:
                start = middle
    return min(tried, key=lambda place: abs(tried[place]))


def remedy_notes(aspects: dict[str, dict[str, Any]], proxies: ProxiesConfig) -> list[str]:
    """A sentence where remedies that act on the fit were to be found, and none reaches 0.

    Args:
        aspects: what the manifest says of each; ``reached_correlation`` is :attr:`Remedies.correlation`.
        proxies: the settings.
    """
    residual = proxies.length_penalty_form == "residual"
    if proxies.length_penalty == "auto" and not residual:
        return []
    reached = {aspect: facts.get("reached_correlation") for aspect, facts in aspects.items()}
    far = {aspect: value for aspect, value in reached.items() if value is not None and abs(value) > 10 * TOLERANCE}
    if not far:
        return []
    figures = ", ".join(f"{value:+.3f} of {aspect}" for aspect, value in far.items())
    cure = "use length_penalty_form eq16" if proxies.length_penalty == "auto" else "set proxies.length_penalty to auto"
    return [
        "no length remedy that was tried makes the margins on held-out pairs independent of length, so the nearest was "
        f"taken; the rank correlation that is left is {figures}; {cure}, and scoring subtracts the rest"
    ]
