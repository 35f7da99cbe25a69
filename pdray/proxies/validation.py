"""Which form of head, with which strength, predicts best on pairs that a fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pdray.proxies.fit import Fit
from pdray.proxies.forms import Form, ProxyPairs, Scale

FOLDS = 3
LEAST_SHARE = 0.05  # a kind of pair that is rarer would double the fits and hardly tell


@dataclass(frozen=True)
class Measured:
    """What a form predicts of pairs that a fit has not seen.

    Attributes:
        strength: of L2, with the smallest loss.
        loss, accuracy: with that strength, weighted means over pairs.
        compared: strength -> loss, of those that were looked at, strongest first.
    """

    strength: float
    loss: float
    accuracy: float
    compared: dict[float, float]


@dataclass(frozen=True)
class Chosen:
    """A form and a strength, fitted to all pairs.

    Attributes:
        form: that was taken.
        fit: of it.
        measured: form -> what it came to.
    """

    form: Form
    fit: Fit
    measured: dict[str, Measured]


def fold_of(groups: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """The fold of each pair, (n,) int64: every group (a prompt's hash) lies in one fold, and folds hold equally many.

    Args:
        groups: (n,) uint64.
        folds: how many, no more than there are groups.
    """
    distinct, inverse = np.unique(groups, return_inverse=True)
    result: np.ndarray = (np.arange(len(distinct)) % folds)[inverse]
    return result


class Validation:
    """Cross-validation as on the pairs that a head will score.

    Those are the pairs of the other aspects. A share of them has prompts, and often texts, that stand in pairs of this
    aspect too: folds of single pairs are like them. The rest has new prompts, like folds of whole prompts. Both count
    in that proportion, where each is at least :data:`LEAST_SHARE`; else the other stands for all.

    Args:
        pairs: n of them, of two prompts at least.
        scale: of their features.
        prompts: (n,) uint64, the prompt of each pair.
        seen_share: share of the other aspects' pairs whose prompt is among them.
    """

    def __init__(self, pairs: ProxyPairs, scale: Scale, prompts: np.ndarray, seen_share: float) -> None:
        self.pairs, self.scale = pairs, scale
        if min(seen_share, 1.0 - seen_share) < LEAST_SHARE:
            seen_share = round(seen_share)
        self.splits: list[tuple[float, np.ndarray]] = []  # the part that one counts, and which pairs it does not see
        kinds = ((seen_share, np.arange(len(prompts), dtype=np.uint64)), (1.0 - seen_share, prompts))
        for share, groups in kinds:
            fold = fold_of(groups, min(FOLDS, len(np.unique(groups)))) if share > 0 else np.empty(0, np.int64)
            for number in np.unique(fold):
                weight = share * pairs.weight[fold == number].sum() / pairs.weight.sum()
                self.splits.append((weight, fold == number))

    def measure(self, form: Form) -> Measured:
        """A form with the best of its strengths: from the middle one on to where the loss falls, until it does no more.

        Fits that are only compared with each other end after ``form.search_steps``.
        """
        strengths = form.strengths
        best = len(strengths) // 2
        found = {best: self._measured(form, strengths[best], form.search_steps)}

        def loss(place: int) -> float:
            if place not in found:
                found[place] = self._measured(form, strengths[place], form.search_steps)
            return found[place][0]

        for step in (-1, 1):
            while 0 <= best + step < len(strengths) and loss(best + step) < loss(best):
                best += step
        whole = found[best] if form.search_steps is None else self._measured(form, strengths[best])
        return Measured(strengths[best], *whole, {strengths[place]: loss(place) for place in sorted(found)})

    def _measured(self, form: Form, l2: float, steps: int | None = None) -> tuple[float, float]:
        total = np.zeros(2)
        for weight, unseen in self.splits:
            fit = form.fit(self.pairs.take(~unseen), self.scale, l2, steps=steps)
            total += weight * self._unseen(form, fit, self.pairs.take(unseen))
        return float(total[0]), float(total[1])

    def _unseen(self, form: Form, fit: Fit, pairs: ProxyPairs) -> np.ndarray:
        reward = form.head(fit.weights, self.scale).rewards(pairs.features.values)[:, 0].astype(np.float64)
        logit = reward[pairs.features.chosen] - reward[pairs.features.rejected] - pairs.margin
        measures = np.stack([np.logaddexp(0.0, -logit), logit > 0])
        return np.asarray(np.average(measures, axis=1, weights=pairs.weight))


def choose(forms: Sequence[Form], pairs: ProxyPairs, scale: Scale, prompts: np.ndarray, seen_share: float) -> Chosen:
    """Fit the form with the strength that has the smallest validation loss; see :class:`Validation`.

    Of equal losses the form that comes first is taken.
    """
    validation = Validation(pairs, scale, prompts, seen_share)
    measured = [validation.measure(form) for form in forms]
    taken = int(np.argmin([one.loss for one in measured]))
    fit = forms[taken].fit(pairs, scale, measured[taken].strength)
    return Chosen(forms[taken], fit, {form.name: one for form, one in zip(forms, measured, strict=True)})
