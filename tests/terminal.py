"""A terminal for tests: a pseudo-terminal, and what stands on it after the few control codes that a view is made of."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import time
from typing import TextIO

CODE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal:
    """A pseudo-terminal of so many columns that remembers all that is written to it.

    Attributes:
        stream: where a program writes.
        written: bytes so far, after :meth:`lines`.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(self._master, False)
        self.stream: TextIO = os.fdopen(os.dup(self.slave), "w", encoding="utf-8")
        self.written = b""

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """The window is closed: whoever writes from now on gets an error."""
        os.close(self._master)

    def lines(self) -> list[str]:
        """What stands on it, with all that was scrolled away above, without empty lines at the end."""
        while True:
            try:
                self.written += os.read(self._master, 65536)
            except OSError:  # nothing there for now
                break
        return self._played(self.written.decode("utf-8"))

    def wait_for(self, text: str, seconds: float = 20.0) -> list[str]:
        """The lines once a text stands among them."""
        end = time.monotonic() + seconds
        while text not in "\n".join(found := self.lines()):
            assert time.monotonic() < end, f"no {text!r} in {found}"
            time.sleep(0.02)
        return found

    def _played(self, text: str) -> list[str]:
        rows, row, column = [""], 0, 0
        for numbers, letter, carriage, line, plain in CODE.findall(text):
            if carriage:
                column = 0
            elif line:
                row += 1
            elif letter == "A":
                row -= int(numbers or 1)
            elif letter == "K":
                assert numbers == "2", "of a whole line"
                rows[row] = ""
            for character in plain:
                if column == self._columns:
                    row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
                rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
                column += 1
            assert letter in ("", "A", "K", "m", "h", "l"), f"a code that is not known here: {letter}"
            rows += [""] * (row + 1 - len(rows))
        while rows and not rows[-1].strip():
            rows.pop()
        return [one.rstrip() for one in rows]
