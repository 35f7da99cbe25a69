"""How often pdray's processes look for garbage. Imports nothing else: every worker of a run does this first."""

from __future__ import annotations

import gc

YOUNG = 50_000


def collect_garbage_less_often() -> None:
    """Wait for more new objects before a garbage collection than Python does by default.

    A worker's first seconds are imports of torch and Transformers, a million objects that stay; to look for garbage
    among them every few hundred makes these imports a fifth longer.
    """
    gc.set_threshold(YOUNG, 10, 10)
