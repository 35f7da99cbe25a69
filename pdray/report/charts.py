"""The plots of the page: what each shows, in which words, with which figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pdray.report.figures import coarser, grid_quantile
from pdray.report.plots import INK, KEPT, LINE, MUTED, REST, WARN, Chart, chart, label, thousands
from pdray.report.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = 64
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ROW = 0.3  # inches of a row of names
DASHED = (0, (4, 3))
CEILING = 1.3  # of the highest bar between the ends, at which what was cut off at ±1 is drawn


def divergence(counts: np.ndarray, limit: float, cut: float | None) -> Chart:
    """The histogram of the divergence, kept pairs in colour.

    Args:
        counts: (2, BINS) of pairs left out and kept.
        limit: of the grid.
        cut: divergence of the last pair that is kept, where pairs are kept by it.
    """
    rest, kept = coarser(counts, BARS)
    edges = np.linspace(-limit, limit, BARS + 1)

    def paint(axes: Axes) -> None:
        axes.stairs(rest + kept, edges, fill=True, color=REST, label="left out")
        axes.stairs(kept, edges, fill=True, color=KEPT, label="kept")
        if cut is not None:
            axes.axvline(cut, color=WARN, linewidth=1.2, label=f"cut {number(cut)}")
        axes.set(xlabel="divergence (← the others agree · the others oppose →)", ylabel="pairs")
        axes.yaxis.set_major_formatter(thousands)
        axes.legend(loc="upper right")

    rows = [("from", "to", "left out", "kept")]
    rows += list(zip(edges[:-1].tolist(), edges[1:].tolist(), rest.tolist(), kept.tolist(), strict=True))
    ends = [grid_quantile(counts.sum(axis=0), limit, share) for share in (0.05, 0.5, 0.95)]
    alt = "Histogram of the preference divergence: " + ", ".join(
        f"{name} {value:.2f}" for name, value in zip(("5%", "median", "95%"), ends, strict=True) if value is not None
    )
    alt += f"; the cut lies at {cut:.3f}" if cut is not None else ""
    return chart("divergence", "Preference divergence", alt, paint, rows)


def conflict(budgets: np.ndarray, shares: np.ndarray, budget: float, kept: float | None) -> Chart:
    """The share of conflicts for every share that is kept by divergence.

    Args:
        budgets, shares: (points,) in (0, 1].
        budget: share of the pairs that this run kept.
        kept: share of conflicts among those.
    """

    def paint(axes: Axes) -> None:
        axes.axhline(shares[-1], color=MUTED, linewidth=1, linestyle=DASHED, label="a random share")
        axes.plot(budgets, shares, color=KEPT, linewidth=2, label="lowest divergence")
        if kept is not None:
            axes.plot([budget], [kept], "o", color=WARN, label="this run")
        axes.set(xlabel="share of the pairs that is kept", ylabel="share in conflict", ylim=(0, None), xlim=(0, 1.02))
        _percent(axes.yaxis)
        _percent(axes.xaxis)
        _legend_above(axes)

    rows = [("budget", "share in conflict"), *zip(budgets.tolist(), shares.tolist(), strict=True)]
    alt = f"Share of conflicts against the share of pairs that is kept: {shares[-1]:.1%} of all pairs"
    alt += f", {kept:.1%} of the {budget:.0%} that were kept" if kept is not None else ""
    return chart("conflict", "Conflict against budget", alt, paint, rows)


def margins(aspects: Sequence[str], counts: np.ndarray) -> Chart:
    """The scaled margins of every aspect: a histogram, and below it the quantiles.

    Args:
        aspects: κ names.
        counts: (κ, BINS) on [−1, 1].
    """
    bars, edges = coarser(counts, BARS), np.linspace(-1, 1, BARS + 1)
    found = [[grid_quantile(row, 1.0, share) for share in QUANTILES] for row in counts]

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=LINE, linewidth=1)
        for place, (row, ends) in enumerate(zip(bars, found, strict=True)):
            base = len(aspects) - place
            heights = np.minimum(row / max(row[1:-1].max(), 1), CEILING)
            axes.stairs(base + 0.6 * heights, edges, baseline=base, fill=True, color=REST)
            low, first, median, third, high = (np.nan if one is None else one for one in ends)
            axes.plot([low, high], [base - 0.08] * 2, color=KEPT, linewidth=1)
            axes.plot([first, third], [base - 0.08] * 2, color=KEPT, linewidth=3.5, solid_capstyle="butt")
            axes.plot([median], [base - 0.08], "o", color=INK, markersize=4)
        axes.set_yticks(range(len(aspects), 0, -1), [label(aspect) for aspect in aspects])
        axes.set(xlabel="scaled margin of the pairs that others labelled", ylim=(0.7, len(aspects) + 0.85))
        _no_ticks(axes)

    rows: list[Any] = [("aspect", *(f"{share:.0%}" for share in QUANTILES))]
    rows += [(aspect, *ends) for aspect, ends in zip(aspects, found, strict=True)]
    medians = ", ".join(
        f"{aspect} {ends[2]:.2f}" for aspect, ends in zip(aspects, found, strict=True) if ends[2] is not None
    )
    caption = "Dot: median. Thick: half of the pairs. Thin: 90%. The bars at ±1 may be higher than drawn."
    return chart(
        "margins", "Margins by aspect", f"Medians of the scaled margins: {medians}", paint, rows,
        0.7 + 0.55 * len(aspects), caption,
    )  # fmt: skip


def agreement(aspects: Sequence[str], matrix: Sequence[Sequence[float | None]], caption: str) -> Chart:
    """How much the margins of the aspects go together.

    Args:
        aspects: κ names.
        matrix: κ rows of κ numbers in [−1, 1], None where it is not known.
        caption: of which pairs.
    """
    size = len(aspects)

    def paint(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for row, values in enumerate(matrix):
            for column, value in enumerate(values):
                if value is None:
                    continue
                tint = 0.75 * min(abs(value), 1)
                box = Rectangle((column, row), 1, 1, color=KEPT if value >= 0 else WARN, alpha=tint, linewidth=0)
                axes.add_patch(box)
                if size <= 10:
                    axes.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color=INK)
        short = [label(aspect, 16) for aspect in aspects]
        axes.set_yticks(np.arange(size) + 0.5, short)
        axes.set_xticks(np.arange(size) + 0.5, short, rotation=35, ha="right", rotation_mode="anchor")
        axes.set(xlim=(0, size), ylim=(size, 0))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    pairs = [(aspects[a], aspects[b], matrix[a][b]) for a in range(size) for b in range(a) if matrix[a][b] is not None]
    alt = "Agreement of the aspects' margins"
    if pairs:
        low, high = min(pairs, key=lambda one: one[2] or 0), max(pairs, key=lambda one: one[2] or 0)
        alt += f": least {low[0]} and {low[1]} {low[2]:.2f}, most {high[0]} and {high[1]} {high[2]:.2f}"
    rows = [("aspect", *aspects), *((aspect, *row) for aspect, row in zip(aspects, matrix, strict=True))]
    return chart("agreement", "Agreement between aspects", alt, paint, rows, 1.3 + 0.36 * size, caption)


def shares(name: str, title: str, groups: Sequence[tuple[str, int, int]], caption: str = "") -> Chart:
    """The kept share of some groups of pairs, beside that of all.

    Args:
        name, title, caption: see :class:`~pdray.report.plots.Chart`.
        groups: (name, pairs, kept pairs).
    """
    found = [kept / every if every else 0.0 for _, every, kept in groups]
    overall = sum(kept for _, _, kept in groups) / max(sum(every for _, every, _ in groups), 1)

    def paint(axes: Axes) -> None:
        places = np.arange(len(groups))[::-1]
        axes.barh(places, found, height=0.62, color=KEPT)
        axes.axvline(overall, color=WARN, linewidth=1.2, linestyle=DASHED)
        axes.set_yticks(places, [label(one) for one, _, _ in groups])
        axes.set(xlim=(0, min(1.0, 1.18 * max([*found, overall])) or 1.0), xlabel="share of its pairs that was kept")
        _percent(axes.xaxis)
        _no_ticks(axes)

    rows = [("group", "pairs", "kept", "share"), *((*one, share) for one, share in zip(groups, found, strict=True))]
    alt = f"{title}: " + ", ".join(
        f"{one} {share:.1%}" for (one, _, _), share in list(zip(groups, found, strict=True))[:8]
    )
    told = f"Dashed: all pairs, {overall:.1%}. {caption}".strip()
    return chart(name, title, alt, paint, rows, 0.75 + ROW * len(groups), told)


def intervals(name: str, title: str, found: Sequence[tuple[str, float, float, float]], what: str = "accuracy") -> Chart:
    """Shares with their intervals beside chance.

    Args:
        name, title: see :class:`~pdray.report.plots.Chart`.
        found: (name, share, low, high).
        what: the share is.
    """
    lowest = min([0.45, *(low for _, _, low, _ in found)])

    def paint(axes: Axes) -> None:
        axes.axvline(0.5, color=WARN, linewidth=1.2, linestyle=DASHED)
        for place, (_, mean, low, high) in zip(range(len(found) - 1, -1, -1), found, strict=True):
            axes.plot([low, high], [place] * 2, color=KEPT if low > 0.5 else WARN, linewidth=2, solid_capstyle="butt")
            axes.plot([mean], [place], "o", color=INK, markersize=5)
        axes.set_yticks(range(len(found) - 1, -1, -1), [label(one) for one, *_ in found])
        axes.set(xlim=(max(lowest - 0.03, 0), 1.01), ylim=(-0.6, len(found) - 0.4), xlabel=f"{what}, 95% interval")
        _percent(axes.xaxis)
        _no_ticks(axes)

    rows = [("name", what, "low", "high"), *found]
    alt = f"{title}: " + ", ".join(f"{one} {mean:.1%} ({low:.1%} to {high:.1%})" for one, mean, low, high in found)
    return chart(name, title, alt, paint, rows, 0.75 + ROW * len(found), "Dashed: a coin.")


def length_bias(found: Sequence[tuple[str, float | None, float | None]]) -> Chart:
    """How much a proxy's margin follows the length of the responses, before and after the remedies.

    Args:
        found: (aspect, before, after), rank correlations.
    """

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=LINE, linewidth=1)
        for place, (_, before, after) in zip(range(len(found) - 1, -1, -1), found, strict=True):
            if before is not None and after is not None:
                axes.plot([before, after], [place] * 2, color=REST, linewidth=2)
            if before is not None:
                axes.plot([before], [place], "o", color=WARN, fillstyle="none", markersize=6)
            if after is not None:
                axes.plot([after], [place], "o", color=KEPT, markersize=6)
        axes.set_yticks(range(len(found) - 1, -1, -1), [label(one) for one, _, _ in found])
        axes.set(
            xlim=(-1.03, 1.03), ylim=(-0.6, len(found) - 0.4), xlabel="rank correlation of Δlength with the margin"
        )
        _no_ticks(axes)

    rows = [("aspect", "before", "after"), *found]
    alt = "Rank correlation of the difference in length with the margin: " + ", ".join(
        f"{one} {'unknown' if before is None else f'{before:.2f}'} before and "
        f"{'unknown' if after is None else f'{after:.2f}'} after"
        for one, before, after in found
    )
    caption = "Circle: without the remedies. Disc: with them."
    return chart("length-bias", "Length bias of the proxies", alt, paint, rows, 0.75 + ROW * len(found), caption)


Curve = Sequence[tuple[float, float]]


def curve(name: str, title: str, train: Curve, held_out: Curve, level: tuple[str, float] | None = None) -> Chart:
    """A figure of the training by step.

    Args:
        name, title: see :class:`~pdray.report.plots.Chart`.
        train, held_out: (step, figure).
        level: what stands for no learning, by name.
    """

    def paint(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level[1], color=MUTED, linewidth=1, linestyle=DASHED, label=level[0])
        if train:
            axes.plot(*zip(*train, strict=True), color=KEPT, linewidth=1.6, label="training")
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o", color=WARN, markersize=5, label="held out")
        axes.set(xlabel="step")
        axes.xaxis.set_major_formatter(thousands)
        axes.legend(loc="best")

    rows: list[Any] = [("pairs", "step", title), *(("training", *one) for one in train)]
    rows += [("held out", *one) for one in held_out]
    ends = f" from {train[0][1]:.3f} to {train[-1][1]:.3f}" if train else ""
    alt = f"{title} by step{ends}" + (f", {held_out[-1][1]:.3f} on held-out pairs" if held_out else "")
    return chart(name, title, alt, paint, rows, 2.4)


def both(name: str, title: str, lines: Sequence[Curve], axes_names: tuple[str, str], shares: bool = False) -> Chart:
    """The same curve of two runs.

    Args:
        name, title: see :class:`~pdray.report.plots.Chart`.
        lines: (x, y) of the first and of the second run.
        axes_names: of x and y.
        shares: whether x and y are shares.
    """
    told = ("first run", "second run")

    def paint(axes: Axes) -> None:
        for line, run, (colour, style) in zip(lines, told, ((KEPT, "-"), (WARN, "--")), strict=True):
            if line:
                axes.plot(*zip(*line, strict=True), color=colour, linestyle=style, linewidth=1.8, label=run)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        if shares:
            axes.set(xlim=(0, 1.02), ylim=(0, None))
            _percent(axes.xaxis)
            _percent(axes.yaxis)
        _legend_above(axes)

    rows: list[Any] = [("run", "x", "y")]
    rows += [(run, *point) for run, line in zip(told, lines, strict=True) for point in line]
    ends = ", ".join(f"{run} {line[-1][1]:.3f} at last" for run, line in zip(told, lines, strict=True) if line)
    return chart(name, title, f"{title} of both runs: {ends}", paint, rows)


def _legend_above(axes: Axes) -> None:
    """In a row over the axes, where no curve goes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=3)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


def _no_ticks(axes: Axes) -> None:
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
