"""Checkpoints of a proxy's training on the storage of the run, local or remote: whole, or not there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs as pafs

from pdray.storage import StoragePath, copy_folder

MARKER = "complete.json"
FILES = "files"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training; picklable.

    Attributes:
        folder: has a folder for each, named by its step; the marker is written last.
    """

    folder: StoragePath

    def keep(self, local: Path, step: int) -> None:
        """Copy a checkpoint that the trainer has written, then remove older ones."""
        target = self.folder / str(step)
        copy_folder(local, target / FILES)
        (target / MARKER).write_json({"files": (target / FILES).sizes(recursive=True)})
        for other in self.folder.folders():
            if other != target.name:
                (self.folder / other).delete()

    def last_step(self) -> int | None:
        """The step of the newest whole checkpoint."""
        steps = [int(name) for name in self.folder.folders() if name.isdigit()] if self.folder.exists() else []
        return max(filter(self._is_whole, steps), default=None)

    def fetch(self, step: int, scratch: Path) -> Path:
        """A checkpoint as a local folder: itself where storage is local, else a copy in ``scratch``."""
        files = self.folder / str(step) / FILES
        if files.is_local:
            return files.local
        target = scratch / f"resumed-{step}"
        pafs.copy_files(
            files.path,
            str(target),
            source_filesystem=files.filesystem,
            destination_filesystem=pafs.LocalFileSystem(),
        )
        return target

    def _is_whole(self, step: int) -> bool:
        target = self.folder / str(step)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return bool((target / MARKER).read_json()["files"] == (target / FILES).sizes(recursive=True))
        return False
