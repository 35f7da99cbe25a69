"""What the user sees: plain lines and one live progress line, while library logs go to a file."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pdray.errors import UserError
from pdray.filesystems import owner_only

PIPED_INTERVAL = 10.0  # seconds between progress lines in a file


class Console:
    """Writes results to one stream and progress to another.

    Args:
        out: stream of results.
        err: stream of progress; redrawn in place on a terminal, a line now and then elsewhere.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.live = self.err.isatty()
        self._last_line = 0.0
        self._drawn = False

    def say(self, text: str = "") -> None:
        """Print a line of the result."""
        self.clear()
        print(text, file=self.out, flush=True)

    def progress(self, text: str, final: bool = False) -> None:
        """Show the state of a long stage; piped to a file, at most a line every ten seconds."""
        if self.live:
            width = os.get_terminal_size(self.err.fileno()).columns or 80
            self.err.write("\r\x1b[2K" + text[: width - 1])
            self._drawn = True
            if final:
                self.clear(newline=True)
        elif final or time.monotonic() - self._last_line >= PIPED_INTERVAL:
            self._last_line = time.monotonic()
            self.err.write(text + "\n")
        self.err.flush()

    def clear(self, newline: bool = False) -> None:
        """Take the progress line off the terminal, or leave it standing with ``newline``."""
        if self._drawn:
            self.err.write("\n" if newline else "\r\x1b[2K")
            self.err.flush()
            self._drawn = False


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
        os.fdopen(os.dup(saved[0]), "w") as out,
        os.fdopen(os.dup(saved[1]), "w") as err,
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
