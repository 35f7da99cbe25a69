"""Matplotlib at the edge: drawings as SVG that take their colours from the page, and as files with their own.

What is drawn uses the stand-in colours below; in the page they become CSS variables, so that a plot follows the theme.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdray.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, KEPT, REST, WARN = (f"#0{place}0{place}0{place}" for place in range(1, 7))
# Stand-in -> the page's CSS variable, and the colour in a file.
COLOURS = {
    INK: ("--ink", "#1d2329"),
    MUTED: ("--muted", "#5b6670"),
    LINE: ("--line", "#d5dae0"),
    KEPT: ("--kept", "#0b6e69"),
    REST: ("--rest", "#b9c2ca"),
    WARN: ("--warn", "#b4481e"),
}
WIDTH = 5.0  # inches: 360 points, a phone's width, so that text has its size there
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pdray",  # the same drawing from the same figures, byte for byte
    "text.parse_math": False,  # a dollar sign in a name is one
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 6),
    "grid.color": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "legend.fontsize": 9,
}


@dataclass(frozen=True)
class Chart:
    """A plot of the page.

    Attributes:
        name: of its files.
        title: above it.
        alt: what it shows, in a sentence with the figures that matter.
        svg: the drawing, for inside the page.
        svg_file, csv_file: data URIs of the drawing and of its figures.
        caption: below it.
    """

    name: str
    title: str
    alt: str
    svg: str
    svg_file: str
    csv_file: str
    caption: str = ""


def chart(
    name: str,
    title: str,
    alt: str,
    paint: Callable[[Axes], None],
    rows: Sequence[Sequence[Any]],
    height: float = 2.6,
    caption: str = "",
) -> Chart:
    """Draw a plot.

    Args:
        name, title, alt, caption: see :class:`Chart`.
        paint: draws on the axes.
        rows: the figures, a header first.
        height: inches.
    """
    drawn = _drawn(paint, height)
    inside, alone = drawn, drawn
    for stand_in, (variable, colour) in COLOURS.items():
        inside, alone = inside.replace(stand_in, f"var({variable})"), alone.replace(stand_in, colour)
    # Names of parts are the page's own: those of two drawings must differ.
    inside = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", inside)
    label = f'<svg role="img" aria-label="{_escaped(alt)}" '
    inside = inside[inside.index("<svg ") :].replace("<svg ", label, 1)
    return Chart(name, title, alt, inside, _uri("image/svg+xml", alone), _uri("text/csv", _csv(rows)), caption)


def _drawn(paint: Callable[[Axes], None], height: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the letters
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    return re.sub(r"\s*<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _uri(kind: str, text: str) -> str:
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f"data:{kind};charset=utf-8;base64,{data}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def label(name: str, most: int = 24) -> str:
    """A name of the corpus as a label: on one line and not too long."""
    text = printable(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def thousands(value: float, _: Any = None) -> str:
    """A tick of a count."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
