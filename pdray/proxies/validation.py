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
class Chosen:
    """A form and a strength, fitted to all pairs.

    Attributes:
        form: that was taken.
        fit: of it.
        accuracy: on validation pairs.
        losses: form -> strength -> mean validation loss, of those that were compared.
    """

    form: Form
    fit: Fit
    accuracy: float
    losses: dict[str, dict[float, float]]


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

    def measure(self, form: Form) -> dict[float, np.ndarray]:
        """Strengths of a form, from the middle one on to where the loss falls, until it falls no more.

        Returns:
            strength -> (2,) mean loss and accuracy on pairs that a fit has not seen; strongest first.
        """
        strengths = form.strengths
        found: dict[int, np.ndarray] = {}

        def loss(place: int) -> float:
            if place not in found:
                found[place] = self._measured(form, strengths[place])
            return float(found[place][0])

        best = len(strengths) // 2
        for step in (-1, 1):
            while 0 <= best + step < len(strengths) and loss(best + step) < loss(best):
                best += step
        return {strengths[place]: found[place] for place in sorted(found)}

    def _measured(self, form: Form, l2: float) -> np.ndarray:
        total = np.zeros(2)
        for weight, unseen in self.splits:
            fit = form.fit(self.pairs.take(~unseen), self.scale, l2)
            total += weight * self._unseen(form, fit, self.pairs.take(unseen))
        return total

    def _unseen(self, form: Form, fit: Fit, pairs: ProxyPairs) -> np.ndarray:
        reward = form.head(fit.weights, self.scale).rewards(pairs.features.values)[:, 0].astype(np.float64)
        logit = reward[pairs.features.chosen] - reward[pairs.features.rejected] - pairs.margin
        measures = np.stack([np.logaddexp(0.0, -logit), logit > 0])
        return np.asarray(np.average(measures, axis=1, weights=pairs.weight))


def choose(forms: Sequence[Form], pairs: ProxyPairs, scale: Scale, prompts: np.ndarray, seen_share: float) -> Chosen:
    """Fit the form with the strength that has the smallest validation loss; see :class:`Validation`.

    Of equal losses the form that comes first is taken, and of its strengths the stronger one.
    """
    validation = Validation(pairs, scale, prompts, seen_share)
    measured = [validation.measure(form) for form in forms]
    losses = [{l2: float(loss) for l2, (loss, _) in of_form.items()} for of_form in measured]
    taken = int(np.argmin([min(of_form.values()) for of_form in losses]))
    form, strength = forms[taken], min(losses[taken], key=losses[taken].__getitem__)
    by_name = {each.name: of_form for each, of_form in zip(forms, losses, strict=True)}
    return Chosen(form, form.fit(pairs, scale, strength), float(measured[taken][strength][1]), by_name)
