"""What trackers have written: (step, loss) of every step of each run, from their own files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pdray.trackers import PACKAGES

BLOCK, HEAD = 2**15, 7  # of W&B's log, which is LevelDB's: checksum, length and kind stand before every piece
Curve = list[tuple[int, float]]


def installed() -> list[str]:
    """Those of the setting that this environment has."""
    return [name for name, packages in PACKAGES.items() if any(find_spec(package) for package in packages)]


def of_tensorboard(folder: Path, project: str) -> list[Curve]:
    """An event file for each; length, checksum, event, checksum."""
    return [_events(file) for file in sorted(path for path in folder.rglob("*") if path.is_file())]


def _events(file: Path) -> Curve:
    from tensorboardX.proto.event_pb2 import Event

    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    values = ((event.step, value) for event in events for value in event.summary.value)
    return [(step, value.simple_value) for step, value in values if value.tag == "train/loss"]


def of_wandb(folder: Path, project: str) -> list[Curve]:
    """An offline run for each."""
    from wandb.proto.wandb_internal_pb2 import Record

    curves = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        curves.append(found := [])
        for data in _records(file.read_bytes()):
            items = Record.FromString(data).history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            if "train/loss" in row:
                found.append((row["train/global_step"], row["train/loss"]))
    return curves


def _records(data: bytes) -> Iterator[bytes]:
    place, parts = HEAD, []
    while place < len(data):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + HEAD : place + HEAD + size])
        place += HEAD + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def of_mlflow(folder: Path, project: str) -> list[Curve]:
    """A run in a database for each."""
    query = (
        "select m.step, m.value from metrics m join runs r using (run_uuid) join experiments e using (experiment_id) "
        "where m.key = 'loss' and e.name = ? order by m.step"
    )
    return [_rows(database, query, project) for database in sorted(folder.rglob("mlflow.db"))]


def of_trackio(folder: Path, project: str) -> list[Curve]:
    """A database of the project."""
    curves: dict[str, Curve] = {}
    for run, metrics in _rows(folder / f"{project}.db", "select run_name, metrics from metrics order by id"):
        curves.setdefault(run, [])
        log = json.loads(metrics)
        if "train/loss" in log:
            curves[run].append((log["train/global_step"], log["train/loss"]))
    return list(curves.values())


def _rows(database: Path, query: str, *values: str) -> list[tuple[Any, Any]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(query, values).fetchall()


READERS: dict[str, Callable[[Path, str], list[Curve]]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
}
