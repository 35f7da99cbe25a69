"""The strategies by name: those of this folder, one file each, and those of installed packages."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pdray.selection.strategy import Strategy

GROUP = "pdray.strategies"
BUILT_IN = (
    "pd",
    "pd_high",
    "pd_mid",
    "pd_ratings",
    "random",
    "all",
    "overall",
    "mean_rating",
    "raf",
    "longest",
    "implicit_margin",
    "implicit_margin_small",
    "fusion",
    "perplexity_gap",
    "alignment_potential",
    "pd_potential",
    "selective",
)


def names() -> list[str]:
    """Every strategy that ``selection.strategy`` may name; nothing of other packages is imported."""
    return [*BUILT_IN, *sorted(set(_added()) - set(BUILT_IN))]


def origin(name: str) -> str | None:
    """Distribution and version that a strategy comes from; None for those of this package."""
    if name in BUILT_IN:
        return None
    package = _added()[name].dist
    return f"{package.name} {package.version}" if package else "unknown"


@functools.cache
def find(name: str) -> Strategy:
    """A strategy.

    Raises:
        TypeError: the entry point leads to something else.
        KeyError: there is none of that name here.
        Exception: whatever importing another package raises.
    """
    from pdray.selection.strategy import Strategy

    found = importlib.import_module(f"{__name__}.{name}").STRATEGY if name in BUILT_IN else _added()[name].load()
    if not isinstance(found, Strategy):
        raise TypeError(f"the entry point {name!r} of {GROUP} leads to {type(found).__name__}, not to a Strategy")
    return found


def _added() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}
