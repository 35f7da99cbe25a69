"""What a selection is refused for, before Ray starts and again when the corpus is known."""

from __future__ import annotations

import math
from functools import partial

from pdray.config import LogprobsConfig, RunConfig
from pdray.errors import UserError, check_together, reason
from pdray.schema import CorpusOutput
from pdray.selection.divergence import num_kept
from pdray.selection.strategies import find
from pdray.selection.strategy import Strategy
from pdray.stages import Upstream


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse a strategy that reads what the run does not have, and once the corpus is known a budget that keeps none.

    Raises:
        UserError: the strategy reads log-probabilities that the run does not compute, or ratings or overall labels
            that no pair has, or it labels pairs anew for a loss that cannot use that; ⌊λN⌋ is 0; a weight of an
            unknown aspect, or no weight at all.
    """
    check_together([partial(_check_strategy, config), partial(_check_corpus, config, upstream.corpus)])


def _check_strategy(config: RunConfig) -> None:
    selection = config.selection
    _check_logps(selection.strategy, config.logprobs)
    if find_strategy(selection.strategy).crossfit and config.crossfit is None:
        raise UserError(
            f"selection.strategy {selection.strategy} reads the losses of policies that are trained on parts of the "
            "corpus, but the config has no crossfit section; add one, as in crossfit: {folds: 2, repeats: 3}, or "
            "choose another strategy"
        )
    if find_strategy(selection.strategy).unified and not config.proxies.has_unified:
        cure = "add one named unified to proxies.models" if config.proxies.models else "set proxies.unified to true"
        raise UserError(
            f"selection.strategy {selection.strategy} reads the margins of one reward model of all aspects together, "
            f"but the run has none; {cure}, or choose another strategy"
        )
    if config.alignment and config.alignment.loss == "dfpo" and find_strategy(selection.strategy).label is not None:
        raise UserError(
            f"selection.strategy {selection.strategy} labels pairs anew, but alignment.loss dfpo reads the divergence "
            "of the old labels; set alignment.loss to dpo, or selection.strategy to all"
        )


def _check_corpus(config: RunConfig, corpus: CorpusOutput | None) -> None:
    selection = config.selection
    if corpus is None:
        if selection.weights and config.corpus.aspects:
            _check_weights(selection.weights, config.corpus.aspects, "corpus.aspects")
        elif selection.weights and config.proxies.model_aspects:
            _check_weights(selection.weights, config.proxies.model_aspects, "proxies.models")
        return
    _check_weights(selection.weights, corpus.aspects, "the corpus")
    if num_kept(selection.budget, corpus.pairs) == 0:
        raise UserError(
            f"selection.budget {selection.budget} of {corpus.pairs:,} pairs keeps none; "
            f"set it to at least {_smallest_budget(corpus.pairs)} or give more pairs"
        )
    lacking = sorted(set(corpus.aspects) - set(corpus.rated))
    if lacking and find_strategy(selection.strategy).reads_ratings:
        raise UserError(
            f"selection.strategy {selection.strategy} needs true ratings of every aspect, but the corpus has none of "
            f"{', '.join(lacking)} (columns score_chosen.<aspect> and score_rejected.<aspect>); choose another strategy"
        )
    if not corpus.preferred and find_strategy(selection.strategy).label_of == "overall":
        raise UserError(
            f"selection.strategy {selection.strategy} labels pairs by their overall preference, but no pair of the "
            "corpus says chosen or rejected in the column overall; write the labels there, name the column that has "
            "them in corpus.columns.overall, or choose another strategy"
        )


def _check_weights(weights: dict[str, float], aspects: list[str], whose: str) -> None:
    """Refuse weights of aspects that there are not, or of 0 alone; of the corpus or what else says its aspects."""
    if unknown := sorted(set(weights) - set(aspects)):
        raise UserError(
            f"selection.weights names {', '.join(unknown)}, but {whose} has the aspects {', '.join(aspects)}; correct "
            "the name, or leave it out"
        )
    if not any(weights.get(aspect, 1.0) for aspect in aspects):
        raise UserError(
            "selection.weights gives every aspect of the corpus the weight 0, so that no pair has a divergence; give "
            "one of them more, or leave the setting out"
        )


def _check_logps(name: str, logprobs: LogprobsConfig | None) -> None:
    needed = find_strategy(name).logps
    if needed and logprobs is None:
        keys = ", ".join(f"{model}: FOLDER" for model in (needed if len(needed) > 1 else ("policy",)))
        raise UserError(
            f"selection.strategy {name} reads log-probabilities, but the config has no logprobs section; add one, as "
            f"in logprobs: {{{keys}}}, or choose another strategy"
        )
    if len(needed) > 1 and logprobs is not None and logprobs.reference is None:
        raise UserError(
            f"selection.strategy {name} compares the policy with a reference, but logprobs.reference is not set, so "
            "that both are one model; set it to the model that the policy was trained from, or choose another strategy"
        )


def find_strategy(name: str) -> Strategy:
    """The strategy that a config names.

    Raises:
        UserError: it stands in another package, which does not load.
    """
    try:
        return find(name)
    except Exception as error:  # code of another package may raise anything
        raise UserError(f"selection.strategy {name} does not load: {reason(error)}") from None


def _smallest_budget(rows: int) -> float:
    """A budget of few digits that keeps at least one of the rows."""
    digits = len(str(rows)) + 1
    return float(math.ceil(10**digits / rows) / 10**digits)
