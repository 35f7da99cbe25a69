"""SIGTERM while a library has a handler of its own in place."""

from __future__ import annotations

import signal
import sys

import pytest

from pdray.errors import Stopped
from pdray.signals import handlers_kept, stopped_by_signals


def test_a_signal_that_ray_took_still_stops_the_command() -> None:
    with pytest.raises(Stopped) as stopped, stopped_by_signals(), handlers_kept():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143


def test_any_other_exit_stays_what_it_is() -> None:
    with pytest.raises(SystemExit) as exit_, stopped_by_signals(), handlers_kept():
        sys.exit(1)
    assert exit_.value.code == 1
