"""The sections of the page: what each takes from the manifests and the pass, as plain values for the template."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pdray.report import charts, figures, words
from pdray.report.plots import Chart
from pdray.report.run import RunView, StageView
from pdray.report.scan import OTHERS, Scan
from pdray.schema import CorpusOutput
from pdray.selection.auroc import auroc as area_under_roc

MOST_POINTS = 1000  # of a curve
MOST_GROUPS = 24  # bars of a chart
Data = dict[str, Any]
TRAINING_FACTS = {
    "train_pairs": "pairs trained on",
    "eval_pairs": "pairs held out",
    "prompts_cut": "prompts cut",
    "responses_cut": "pairs with a cut response",
    "empty": "pairs without tokens",
    "num_workers": "workers",
    "worker_start_seconds": "seconds until the workers were up",
    "zero_stage": "ZeRO stage",
    "seconds_per_step": "seconds a step",
    "eval_loss": "held-out loss",
    "eval_accuracy": "held-out accuracy",
}


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: of its macro in the template, and of its place.
        title: above it.
        reads: the stages whose manifests it takes its figures from.
        build: its data, from the run and its scan or from two runs; None where there is nothing to show.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    build: Callable[..., Data | None]


def figures_of(run: RunView, scan: Scan | None) -> list[tuple[str, str]]:
    """The large figures below the headline: (figure, what it is)."""
    found = []
    corpus, selection = run["corpus"], run["selection"]
    if isinstance(corpus.output, CorpusOutput):
        found.append((f"{corpus.output.pairs:,}", f"pairs of {len(corpus.output.aspects)} aspects"))
    if selection.complete:
        found.append((f"{selection.manifest['rows_out']:,}", "kept"))
        conflict = selection.metrics.get("conflict") or {}
        if "all" in conflict and "kept" in conflict:
            found.append((f"{conflict['all']:.1%} → {conflict['kept']:.1%}", "in conflict, all → kept"))
    if (area := auroc(scan)) is not None:
        found.append((f"{area[0]:.3f}", "AUROC of the divergence"))
    if "last_loss" in run["alignment"].metrics:
        facts = run["alignment"].metrics
        found.append((f"{facts['first_loss']:.3f} → {facts['last_loss']:.3f}", f"{str(facts['loss']).upper()} loss"))
    if accuracy := run["evaluation"].metrics.get("accuracy"):
        found.append((f"{accuracy['mean']:.1%}", "of held-out pairs right"))
    spent = sum(stage.manifest["seconds"] for stage in run.configured if stage.complete)
    found.append((words.duration(spent), "in all stages"))
    return found


def auroc(scan: Scan | None) -> tuple[float, float] | None:
    """AUROC of the divergence against the true conflicts, and how wrong the grid can make it."""
    return None if scan is None else area_under_roc(scan.counts.conflict[1], scan.counts.conflict[0])


def flow(run: RunView, scan: Scan | None) -> Data | None:
    """What became of the rows of every stage."""
    rows = []
    for stage in run.configured:
        if not stage.complete:
            continue
        manifest = stage.manifest
        reasons = stage.metrics.get("quarantine_reasons", {})
        left = [(reason, count, True) for reason, count in sorted(reasons.items(), key=lambda one: -one[1])]
        left += [(reason, count, False) for reason, count in manifest["dropped"].items() if count]
        rows.append({"name": stage.name, "in": manifest["rows_in"], "out": manifest["rows_out"], "left": left})
    return {"rows": rows} if rows else None


def divergence(run: RunView, scan: Scan | None) -> Data | None:
    """The histogram with the cut, conflict against budget, margins and agreement."""
    if scan is None:
        return None
    facts, counts = run["selection"].metrics, scan.counts
    found: list[Chart] = [charts.divergence(counts.divergence, scan.limit, cut_of(run))]
    if counts.conflict[0].sum() + counts.conflict[1].sum():
        budgets, shares = figures.conflict_curve(counts.conflict[1], counts.conflict[0])
        kept = counts.divergence[1].sum() / max(counts.divergence.sum(), 1)
        found.append(charts.conflict(budgets, shares, kept, (facts.get("conflict") or {}).get("kept")))
    found.append(charts.margins(scan.aspects, counts.margins))
    agreement = run["proxies"].metrics.get("agreement")
    if agreement:
        # The model of all aspects together stands behind them, in rows and columns.
        names = [*scan.aspects, *sorted(agreement.keys() - set(scan.aspects))]
        matrix = [agreement[name] for name in names]
        found.append(charts.agreement(names, matrix, "Of the proxies' margins on held-out pairs."))
    else:
        matrix = figures.agreement(counts.products, counts.squares)
        told = "Of the scaled margins of all pairs that neither aspect labelled."
        found.append(charts.agreement(scan.aspects, matrix, told))
    return {"charts": found, "auroc": auroc(scan), "quantiles": facts["quantiles"], "strategy": facts["strategy"]}


def cut_of(run: RunView) -> float | None:
    """The divergence of the last kept pair, where pairs are kept by their divergence and some are left out."""
    facts = run["selection"].metrics
    cut = facts.get("cut_pd")
    if facts.get("strategy") not in words.BY_DIVERGENCE or not isinstance(cut, float) or not math.isfinite(cut):
        return None
    return cut


def kept(run: RunView, scan: Scan | None) -> Data | None:
    """Who is kept: by aspect, source and length."""
    if scan is None:
        return None
    facts, corpus = run["selection"].metrics, run["corpus"].output
    assert isinstance(corpus, CorpusOutput), "the pass has read it"
    of_aspects = [(name, every, facts["kept_per_aspect"].get(name, 0)) for name, every in corpus.aspect_pairs.items()]
    found = [charts.shares("kept-by-aspect", "Kept by aspect", of_aspects)]
    sources = [(name or "(no source)", *counts) for name, counts in scan.counts.sources.items() if name != OTHERS]
    others, _ = scan.counts.sources.get(OTHERS, (0, 0))
    if len(sources) > 1:
        found.append(charts.shares("kept-by-source", "Kept by source", _largest(sources), _told_of(sources, others)))
    rest, of_kept = scan.counts.lengths.tolist()
    lengths = [
        (f"{2**k:,} to {2 ** (k + 1) - 1:,}" if k else "0 or 1", rest[k] + of_kept[k], of_kept[k])
        for k in range(len(rest))
        if rest[k] + of_kept[k]
    ]
    found.append(charts.shares("kept-by-length", "Kept by length", lengths, "Tokens of the chosen response."))
    return {"charts": found, "longer": facts.get("chosen_longer"), "relabelled": facts.get("relabelled", 0)}


def _largest(groups: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    return sorted(groups, key=lambda one: (-one[1], one[0]))[:MOST_GROUPS]


def _told_of(groups: list[tuple[str, int, int]], others: int) -> str:
    """What a chart of the largest groups leaves out.

    Args:
        groups: that were counted apart.
        others: pairs of the groups that were not.
    """
    if others:
        return f"The largest {MOST_GROUPS} of the first {len(groups):,} by name; {others:,} pairs have other ones."
    return f"The largest {MOST_GROUPS} of {len(groups):,}." if len(groups) > MOST_GROUPS else ""


def proxies(run: RunView, scan: Scan | None) -> Data | None:
    """How good the reward models are, and how much they follow length."""
    stage = run["proxies"]
    if not stage.complete:
        return None
    aspects = stage.metrics["aspects"]
    measured = [(name, facts) for name, facts in aspects.items() if facts.get("held_out_interval")]
    found = []
    if measured:
        points = [(name, facts["held_out_accuracy"], *facts["held_out_interval"]) for name, facts in measured]
        found.append(charts.intervals("proxies", "Held-out accuracy", points))
        bias = [
            (name, facts["length_correlation"]["before"], facts["length_correlation"]["after"])
            for name, facts in measured
        ]
        found.append(charts.length_bias(bias))
    return {"charts": found, "aspects": aspects, "trained": stage.metrics.get("trained")}


def alignment(run: RunView, scan: Scan | None) -> Data | None:
    """The curves of the training."""
    stage = run["alignment"]
    if not stage.complete:
        return None
    history = read_history(stage)
    facts = stage.metrics
    level = ("untouched policy", math.log(2)) if facts.get("loss") == "dpo" else None
    found = [
        charts.curve("loss", "Loss", points(history, "loss"), points(history, "eval_loss"), level),
        *(
            charts.curve(name, title, points(history, f"rewards/{key}"), points(history, f"eval_rewards/{key}"))
            for name, title, key in (
                ("reward-margins", "Reward margin", "margins"),
                ("accuracy", "Preference accuracy", "accuracies"),
            )
        ),
    ]
    return {"charts": found, "facts": [(name, facts[key]) for key, name in TRAINING_FACTS.items() if key in facts]}


def read_history(stage: StageView) -> list[dict[str, Any]]:
    """The log of the training, a dict for each entry.

    Raises:
        ValueError: it is gone or damaged.
    """
    assert stage.folder is not None, "a complete stage has a folder"
    try:
        lines = (stage.folder / "training.jsonl").read_bytes().decode("utf-8").splitlines()
        return [dict(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{stage.folder.name}/training.jsonl cannot be read ({error})") from None


def points(history: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Of a long training every n-th point."""
    found = [(entry["step"], entry[key]) for entry in history if key in entry and math.isfinite(entry[key])]
    step = max(1, math.ceil(len(found) / MOST_POINTS))
    return found[::step] if step == 1 else [*found[::step], found[-1]]


def evaluation(run: RunView, scan: Scan | None) -> Data | None:
    """The accuracy of the trained policy, and how often its answers win."""
    if not run["evaluation"].complete:
        return None
    facts = run["evaluation"].metrics
    every = {"all pairs": facts["accuracy"], **facts["aspects"]}
    found = [charts.intervals("evaluation", "Preference accuracy of the policy", _points(every))]
    rates = facts.get("win_rates") or {}
    if rates:
        points = _points(_of_judges(rates))
        found.append(charts.intervals("win-rates", "Win rate of the policy's answers", points, "win rate"))
    return {"charts": found, "every": every, "win_rates": rates, "answers": facts.get("answers")}


def _of_judges(rates: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The rows of the chart: each judge, raw, length-controlled and by set."""
    rows: dict[str, dict[str, float]] = {}
    for judge, found in rates.items():
        sets = {f"{judge}, {name}": one for name, one in found.get("sets", {}).items()}
        rows |= {judge: found, f"{judge}, length-controlled": found["length_controlled"], **sets}
    return rows


def _points(every: dict[str, dict[str, float]]) -> list[tuple[str, float, float, float]]:
    return [(name, one["mean"], one["low"], one["high"]) for name, one in every.items()]


def samples(run: RunView, scan: Scan | None) -> Data | None:
    """Pairs to read."""
    return {"groups": scan.samples, "aspects": scan.aspects} if scan is not None and scan.samples else None
