"""What the user sees: plain lines, and a live view below them on a terminal, while library logs go to a file."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pdray.errors import UserError
from pdray.filesystems import owner_only

if TYPE_CHECKING:
    from pdray.live import LiveView, StepState

PIPED_INTERVAL = 10.0  # seconds between progress lines in a file


class Console:
    """Writes results to one stream and progress to another.

    Args:
        out: stream of results.
        err: stream of progress; a view that is redrawn in place on a terminal, a line now and then elsewhere.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.live = self.err.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        self._last_line = 0.0
        self._made: LiveView | None = None

    @property
    def _view(self) -> LiveView:
        if self._made is None:
            from pdray.live import LiveView

            self._made = LiveView(self.err)
        return self._made

    def say(self, text: str = "") -> None:
        """Print a line of the result."""
        with self._made.aside() if self._made else contextlib.nullcontext():
            print(text, file=self.out, flush=True)

    def progress(self, text: str, final: bool = False, step: StepState | None = None) -> None:
        """Show the state of a long stage; piped to a file, at most a line every ten seconds.

        Args:
            text: the line.
            final: whether the step has ended; the line stays.
            step: the same for the view on a terminal; None shows the line there too.
        """
        if self.live and not final:
            from pdray.live import StepState

            self._view.show(step or StepState("", text))
        elif final or time.monotonic() - self._last_line >= PIPED_INTERVAL:
            self._last_line = time.monotonic()
            with self._made.aside(ended=True) if self._made else contextlib.nullcontext():
                self.err.write(text + "\n")
                self.err.flush()

    @contextlib.contextmanager
    def showing(self, stages: dict[str, str]) -> Iterator[None]:
        """Show the stages of a run on a terminal while the block runs; see :class:`~pdray.live.LiveView`."""
        with self._view.showing(stages) if self.live else contextlib.nullcontext():
            yield

    def stage(self, name: str, state: str) -> None:
        """Show on a terminal that a stage is ``running`` or ``done``."""
        if self.live:
            self._view.stage(name, state)

    def clear(self) -> None:
        """Take the view off the terminal."""
        if self._made is not None:
            self._made.take_off()


def _mv(path: Path) -> str:
    return f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"


def clock(seconds: float) -> str:
    """Minutes and seconds, ``m:ss``, with hours where needed."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@contextlib.contextmanager
def logs_to_file(logs: Path) -> Iterator[Console]:
    """Send everything that this process and its libraries print to ``<logs>/<time>/ray.log``.

    Ray forwards its workers' output to the driver, so this one redirection of the file descriptors holds
    back Ray, vLLM and DeepSpeed alike. ``<logs>/latest`` points to the newest folder.

    Yields:
        the console that still reaches the user.

    Raises:
        UserError: something else stands in the place of the folder or of the link.
    """
    folder = logs / time.strftime("%Y%m%d-%H%M%S")
    latest = logs / "latest"
    if (logs.exists() or logs.is_symlink()) and not logs.is_dir():
        raise UserError(f"{logs} should be a folder, but something else stands there; move it away: {_mv(logs)}")
    if latest.is_dir() and not latest.is_symlink():
        raise UserError(f"{latest} should be a link, but a folder stands there; move it away: {_mv(latest)}")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        latest.unlink()
    with contextlib.suppress(FileExistsError):
        latest.symlink_to(folder.name)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with (
        open(folder / "ray.log", "ab", buffering=0, opener=owner_only) as log,
        os.fdopen(os.dup(saved[0]), "w", errors="backslashreplace") as out,
        os.fdopen(os.dup(saved[1]), "w", errors="backslashreplace") as err,
    ):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield Console(out, err)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):  # a log on a full disk must not hide why the run ended
                    stream.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
