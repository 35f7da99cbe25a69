"""The run in plain words: what was asked and what came out. Pure functions of what the stages wrote."""

from __future__ import annotations

from typing import Any

from pdray.report.run import RunView
from pdray.schema import CorpusOutput, SelectionOutput
from pdray.selection.strategies import find

# Strategies whose cut is a divergence.
BY_DIVERGENCE = ("pd", "pd_high", "pd_ratings")
KEPT_WORDS = {
    "pd": "on which the other aspects agree most with the label were kept",
    "pd_high": "on which the other aspects oppose the label most were kept",
    "pd_mid": "with the middle divergence were kept",
    "pd_ratings": "on which the other aspects' true ratings agree most with the label were kept",
    "random": "drawn at random were kept",
    "raf": "with the largest margin of one reward model of all aspects were kept",
    "longest": "with the longest chosen responses were kept",
}


def headline(run: RunView) -> str:
    """The first sentence of the page."""
    corpus, selection = run["corpus"].output, run["selection"].output
    if not isinstance(corpus, CorpusOutput):
        return "This run has no corpus yet."
    pairs = f"{corpus.pairs:,} pairs"
    if run.rounds:
        return f"{pairs} went in; each round selects its own."
    if not isinstance(selection, SelectionOutput):
        return f"{pairs} went in; none is selected yet."
    strategy = str(run["selection"].metrics.get("strategy"))
    if selection.kept == corpus.pairs:
        return f"{pairs} went in, and all of them were kept."
    told = KEPT_WORDS.get(strategy, f"that the strategy {strategy} puts first were kept")
    return f"{pairs} went in; the {selection.kept:,} {told}."


def asked(run: RunView) -> list[str]:
    """What the configuration asks for, a sentence each."""
    proxies, scores, selection = (run.section(name) for name in ("proxies", "scores", "selection"))
    found = []
    if proxies.get("models"):
        found.append("Take the reward models that were brought along, one label for each aspect.")
    elif proxies.get("train") == "head":
        found.append("Train a small reward head for each aspect on a frozen encoder.")
    else:
        kind = (
            "one model with a label for each aspect" if proxies.get("kind") == "shared" else "a model for each aspect"
        )
        found.append(f"Train {kind}, from the labels of that aspect alone.")
    found.append(f"Score every distinct text once, with {scores.get('engine')} in {scores.get('dtype')} precision.")
    strategy = str(selection.get("strategy"))
    budget = "every pair" if _keeps_all(strategy) else f"{100 * selection.get('budget', 0):g}% of the pairs"
    if selection.get("quota"):
        budget += f", and of those of every {selection['quota']}"
    gamma = f"margins scaled by their {selection.get('gamma')} quantile"
    found.append(f"Keep {budget} by the strategy {strategy}, {gamma}.")
    if alignment := run.section("alignment"):
        loss, workers, stage = (alignment.get(name) for name in ("loss", "num_workers", "zero_stage"))
        found.append(
            f"Train the policy on what is kept with {str(loss).upper()}, β {alignment.get('beta')}, "
            f"{workers} workers, DeepSpeed ZeRO-{stage}."
        )
    if evaluation := run.section("evaluation"):
        found.append(f"Judge the policy on at most {evaluation.get('max_pairs', 0):,} held-out pairs.")
        if judges := [*evaluation.get("reward_models", {}), *evaluation.get("endpoints", {})]:
            found.append(f"Compare its answers with those of a baseline, by {', '.join(judges)}.")
    return found


def _keeps_all(strategy: str) -> bool:
    try:
        return find(strategy).keeps_all
    except Exception:  # of a package that is not here, or does not load here
        return False


def came_out(run: RunView, auroc: float | None) -> list[str]:
    """What the stages found, a sentence each."""
    found = []
    proxies = [
        facts["held_out_accuracy"]
        for facts in run["proxies"].metrics.get("aspects", {}).values()
        if facts.get("held_out_accuracy") is not None
    ]
    if proxies:
        shares = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(proxies), max(proxies))))
        found.append(f"On pairs that they had not seen, the proxies are right in {shares} of cases.")
    conflict = run["selection"].metrics.get("conflict") or {}
    if "all" in conflict and "kept" in conflict:
        found.append(
            f"By their true ratings, {conflict['all']:.1%} of all pairs conflict with the other aspects, and "
            f"{conflict['kept']:.1%} of the kept ones"
            + (f"; a random draw of that size has {conflict['random']:.1%}." if "random" in conflict else ".")
        )
    if auroc is not None:
        found.append(f"The divergence puts a pair in conflict above one without in {auroc:.1%} of cases (AUROC).")
    alignment = run["alignment"].metrics
    if "first_loss" in alignment:
        found.append(
            f"{str(alignment.get('loss')).upper()} took {alignment['steps']:,} steps: loss "
            f"{alignment['first_loss']:.3f} at first, {alignment['last_loss']:.3f} at last."
        )
    if accuracy := run["evaluation"].metrics.get("accuracy"):
        found.append(
            f"The trained policy prefers the better response in {accuracy['mean']:.1%} of {int(accuracy['pairs']):,} "
            f"held-out pairs (95% interval {accuracy['low']:.1%} to {accuracy['high']:.1%})."
        )
    for judge, rate in (run["evaluation"].metrics.get("win_rates") or {}).items():
        controlled = rate["length_controlled"]
        found.append(
            f"By {judge} its answers win in {rate['mean']:.1%} of {int(rate['pairs']):,} comparisons (95% interval "
            f"{rate['low']:.1%} to {rate['high']:.1%}; {controlled['mean']:.1%} at equal length)."
        )
    return found


def state(run: RunView) -> str:
    """Whether the run is finished, and if not, what it waits for; of several rounds, where they are."""
    open_stages = [stage for stage in run.configured if stage.status != "complete"]
    if not open_stages and run.rounds:
        return f"What follows the scores is done in rounds, each with a page of its own: {', '.join(run.rounds)}."
    if not open_stages:
        return ""
    told = ", ".join(f"{stage.name} is {stage.status}" for stage in open_stages)
    return f"This run is not finished: {told}. What is here is what the finished stages wrote."


def number(value: Any, digits: int = 3) -> str:
    """A figure of a manifest for people; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        text = f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:,.{digits}f}"
        return text.replace("-", "−")
    return f"{value:,}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share for people."""
    return "–" if value is None else f"{value:.{digits}%}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
