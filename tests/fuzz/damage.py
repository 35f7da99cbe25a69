"""Ways in which a file goes wrong: cut off, emptied, replaced, changed inside, or something else in its place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.values import values

FOREIGN = {
    "html": b"<!DOCTYPE html><html><body>404</body></html>\n",
    "yaml": b"run: x\n",
    "binary": bytes(range(256)),
    "zip": b"PK\x03\x04" + b"\0" * 40,
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 5_000,
    "deep and closed": b"[" * 900 + b"]" * 900,
    "null": b"null",
    "number": b"7",
    "many digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "list": b"[]",
    "object": b"{}",
    "blank": b" \n",
    "bom": b"\xef\xbb\xbf{}",
    "safetensors of nothing": (2).to_bytes(8, "little") + b"{}",
    "parquet of nothing": b"PAR1PAR1",
}
NEIGHBOURS = (
    b"\xff.json",
    b"a\nb",
    b"shard-00000.json.tmp",
    b"shard-99999.json",
    b"manifest.json.damaged-1",
    b"*",
    b" ",
)
PLACES = ("gone", "folder", "full folder", "pipe", "dangling link", "circle", "socket", "unreadable")


@dataclass(frozen=True)
class Damage:
    """One way to harm one file.

    Attributes:
        file: its path below the folder that is harmed.
        way: what happens.
        number: how far, or where.
        value: that is put there.
    """

    file: str
    way: str
    number: int = 0
    value: Any = None

    def apply(self, root: Path) -> None:
        """Harm the file; what is none any more, or cannot be read, after an earlier damage, is left as it is."""
        path = root / self.file
        if self.way in PLACES:
            remove(path)
            _put(self.way, path)
        elif self.way == "odd neighbours":
            for name in NEIGHBOURS:
                with contextlib.suppress(OSError):
                    Path(os.fsdecode(os.fsencode(path.parent) + b"/" + name)).touch()
        elif (data := _bytes_of(path)) is not None:
            remove(path)
            path.write_bytes(self._changed(data))

    def _changed(self, data: bytes) -> bytes:
        at = self.number % (len(data) + 1)
        if self.way == "cut":
            return data[:at]
        if self.way == "insert":
            return data[:at] + bytes([self.number % 256]) + data[at:]
        if self.way == "flip" and data:
            at %= len(data)
            return data[:at] + bytes([data[at] ^ (1 << self.number % 8)]) + data[at + 1 :]
        if self.way == "append":
            return data + b"\n{}"
        if self.way == "foreign":
            return list(FOREIGN.values())[self.number % len(FOREIGN)]
        if self.way in ("json", "json less"):
            return _edited(data, self.number, self.value, self.way == "json less")
        return data


def damages(files: list[str]) -> st.SearchStrategy[Damage]:
    """A damage to one of some files; JSON files are mostly changed in one of their values."""
    ways = {
        name: st.sampled_from(["cut", "insert", "flip", "append", "foreign", "odd neighbours", *PLACES])
        | (st.sampled_from(["json", "json", "json less"]) if name.endswith((".json", ".jsonl")) else st.nothing())
        for name in files
    }
    numbers = st.integers(0, 2**20)

    def of(name: str) -> st.SearchStrategy[Damage]:
        return ways[name].flatmap(
            lambda way: st.builds(Damage, st.just(name), st.just(way), numbers, values if way == "json" else st.none())
        )

    return st.sampled_from(files).flatmap(of)


def remove(path: Path) -> None:
    """Delete whatever stands there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(NotADirectoryError):  # what it lay in went with an earlier damage
            path.unlink(missing_ok=True)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _put(way: str, path: Path) -> None:
    if not path.parent.is_dir():  # it went with an earlier damage
        return
    if way == "folder":
        path.mkdir()
    elif way == "full folder":
        (path / "a").mkdir(parents=True)
        (path / "a" / path.name).write_text("{}")
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "dangling link":
        path.symlink_to("nowhere")
    elif way == "circle":
        path.symlink_to(path.name)
    elif way == "unreadable":
        path.symlink_to("/proc/self/mem")
    elif way == "socket":
        os.mknod(path, 0o600 | 0o140000)


def _edited(data: bytes, number: int, value: Any, less: bool) -> bytes:
    """JSON with one value replaced, or one entry less; what is no JSON stays."""
    try:
        content = json.loads(data)
    except ValueError:
        return data
    places = list(_places(content))
    if not places:
        return json.dumps(value).encode()
    holder, key = places[number % len(places)]
    if less:
        del holder[key]
    else:
        holder[key] = value
    return json.dumps(content).encode()


def _places(value: Any) -> Any:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(entries):
        yield value, key
        yield from _places(child)
