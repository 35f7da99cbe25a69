"""What a terminal shows below the lines: the stages of a run, the step under way, who works, memory."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from pdray.background import repeated
from pdray.console import clock

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

REFRESH_SECONDS = 1.0
SILENCE_SECONDS = 30.0  # without a count, before the view speaks of it
GIB = 2**30


@dataclass(frozen=True)
class StepState:
    """How far a step is.

    Attributes:
        name: the step in a word or two; empty where the line says it.
        line: counts, rate and time left, in words.
        share: of it that is done, in [0, 1]; None where it is not known.
        workers: that are at a shard now; None where nobody says.
        silence: seconds since a count came.
    """

    name: str
    line: str
    share: float | None = None
    workers: int | None = None
    silence: float = 0.0


class LiveView:
    """Redrawn in place, by whoever has news and once a second while stages are shown; nothing in it asks Ray.

    Args:
        err: a terminal.
    """

    def __init__(self, err: TextIO) -> None:
        from rich.console import Console

        self._err = err
        self._terminal = Console(file=err, force_terminal=True, force_jupyter=False, highlight=False)
        self._lock = threading.RLock()
        self._live: Any = None
        self._step: StepState | None = None
        self._stages: dict[str, str] = {}
        self._begun = self._stage_begun = time.monotonic()

    @contextlib.contextmanager
    def showing(self, stages: dict[str, str]) -> Iterator[None]:
        """Show the stages of a run while the block runs.

        Args:
            stages: name -> ``done`` or ``to run``.
        """
        with self._lock:
            self._stages, self._begun = dict(stages), time.monotonic()
            self._draw()
        try:
            with repeated(self._refresh, REFRESH_SECONDS):
                yield
        finally:
            with self._lock:
                self.take_off()
                self._stages = {}

    def stage(self, name: str, state: str) -> None:
        """A stage is ``running`` or ``done``."""
        with self._lock:
            self._stages[name], self._step, self._stage_begun = state, None, time.monotonic()
            self._draw()

    def show(self, step: StepState) -> None:
        """A step came further."""
        with self._lock:
            self._step = step
            self._draw()

    @contextlib.contextmanager
    def aside(self, ended: bool = False) -> Iterator[None]:
        """Make room while the block prints lines, which stay above the view.

        Args:
            ended: whether the step that is shown has ended.
        """
        with self._lock:
            was_there = self._live is not None
            self.take_off()
            yield
            if ended:
                self._step = None
            if was_there and (self._stages or self._step):
                self._draw()

    def take_off(self) -> None:
        """Leave nothing of the view on the terminal."""
        with self._lock:
            live, self._live = self._live, None
            if live is not None:
                with contextlib.suppress(OSError):
                    live.stop()

    def _refresh(self) -> None:
        with self._lock:
            if self._live is not None:
                self._draw()

    def _draw(self) -> None:
        from rich.live import Live

        try:
            columns, rows = os.get_terminal_size(self._err.fileno())
            self._terminal.size = (columns or 80, rows or 24)  # of this stream: those that Rich asks are a log by now
            if self._live is None:
                self._live = Live(
                    console=self._terminal,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                    vertical_overflow="crop",
                    get_renderable=self._picture,
                )
                self._live.start()
                self._terminal.show_cursor(True)  # Ray may end this process without a word, and would leave it hidden
            self._live.refresh()
        except OSError:
            self._live = None  # the terminal was closed; that must not be why a run fails

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows: list[RenderableType] = [self._stage_row()] if self._stages else []
        step = self._step
        if step is not None:
            if step.share is not None:
                bar = Table.grid(padding=(0, 1), expand=True)
                bar.add_column(no_wrap=True)
                bar.add_column(ratio=1)
                bar.add_column(no_wrap=True, justify="right")
                bar.add_row(step.name, ProgressBar(total=1.0, completed=step.share), f"{step.share:.0%}")
                rows += [bar, Text(step.line)]
            else:
                rows.append(Text(f"{step.name}: {step.line}" if step.name else step.line))
        rows.append(self._facts())
        return Group(*rows)

    def _stage_row(self) -> RenderableType:
        from rich.columns import Columns
        from rich.text import Text

        marks = dict(zip(("done", "running"), "+>" if self._terminal.options.ascii_only else "✓▸", strict=True))
        styles = {"done": "green", "running": "bold"}
        return Columns(
            [
                Text(f"{marks.get(state, '')} {name}".strip(), styles.get(state, "dim"), no_wrap=True)
                for name, state in self._stages.items()
            ],
            padding=(0, 2),
        )

    def _facts(self) -> Text:
        import psutil
        from rich.text import Text

        now, memory = time.monotonic(), psutil.virtual_memory()
        facts = []
        if self._stages:
            running = [name for name, state in self._stages.items() if state == "running"]
            facts += [f"{clock(now - self._stage_begun)} in {name}" for name in running]
            facts.append(f"{clock(now - self._begun)} in all")
        step = self._step
        if step is not None and step.workers is not None:
            facts.append(f"{step.workers} worker{'' if step.workers == 1 else 's'} at work")
        facts.append(f"memory {(memory.total - memory.available) / GIB:.1f} of {memory.total / GIB:.1f} GiB here")
        line = Text(" · ".join(facts), "dim")
        if step is not None and step.silence >= SILENCE_SECONDS:
            line.append(f" · no progress for {clock(step.silence)}", "not dim yellow")
        return line
