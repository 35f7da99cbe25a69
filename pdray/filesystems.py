"""What is below a storage path: filesystems by URI, failures told with the cure, local files for their owner alone."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from pdray.errors import UserError
from pdray.paths import is_utf8

# Object storage answers "slow down" in the course of business: about forty seconds of patience, in growing waits.
S3_ATTEMPTS = 8
S3_TIMEOUTS = {"connect_timeout": 10.0, "request_timeout": 60.0}  # seconds; the defaults of 1 and 3 end under load

PARTIAL = re.compile(r"\..+\.[0-9a-f]{12}")  # a file that is being written; see partial_of
REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN", "UNRECOGNIZED_CLIENT")
NO_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket")


@functools.lru_cache(maxsize=64)
def opened(root: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path of the URI on it; the local one for an empty text.

    Raises:
        UserError: no filesystem goes by that URI.
    """
    if not root:
        return pafs.LocalFileSystem(), ""
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (ValueError, OSError) as error:
        raise UserError(f"{root} cannot be opened ({error}); use a local path, s3://… or gs://…") from None
    return patient(filesystem), path


def patient(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    """The same filesystem with retries and time limits, which a URI has no words for and a pickled one has lost."""
    if not isinstance(filesystem, pafs.S3FileSystem):
        return filesystem
    options = filesystem.__reduce__()[1][0]
    retries = pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
    # Without a delayed open every small file costs three requests in place of one.
    return pafs.S3FileSystem(**{**options, **S3_TIMEOUTS, "allow_delayed_open": True}, retry_strategy=retries)


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Raise what a user can mend in object storage as a :class:`UserError`; other failures stay as they are."""
    try:
        yield
    except OSError as error:
        text = str(error)
        if any(word in text for word in NO_BUCKET):
            raise UserError(f"the bucket of {uri} does not exist; create it or correct the name") from None
        if any(word in text for word in REFUSED):
            raise UserError(
                f"{uri} refuses the credentials of this process ({_words(text)}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or a profile on every node, and check what they may do there"
            ) from None
        raise


@contextlib.contextmanager
def in_need_of_room(path: str | Path) -> Iterator[None]:
    """Raise a disk or a quota that is full as a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"no space is left for {path}; make room there and run again") from None


def _words(text: str) -> str:
    """The storage's own words out of a message of pyarrow's."""
    return text.partition("AWS Error ")[2].partition(" (Request ID")[0].rstrip(".") or text


def read_regular(path: str) -> bytes:
    """A local file as a whole.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a folder, a pipe or a device; opening one of these could wait for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a file", path)
        with open(handle, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(handle)


def check_regular(path: str) -> None:
    """Refuse to open what is no file.

    Raises:
        FileNotFoundError, OSError: as :func:`read_regular`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a file", path)


def read_ahead(path: str) -> None:
    """Have the kernel read a local file while this process does something else.

    Where there is no such file nothing happens: whoever reads it then has the error to tell.
    """
    with contextlib.suppress(OSError):
        check_regular(path)
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def local_sizes(folder: str, recursive: bool) -> dict[str, int]:
    """Bytes of every file in a local folder, by its path below it; empty where there is no folder.

    pyarrow lists no folder in which any name is not UTF-8, or any link leads in a circle; these are none of pdray's.
    A folder that several links lead to is gone through once: two links in a circle would have no end of paths.

    Raises:
        OSError: the storage does not answer.
    """
    found, gone_through = {}, set()
    base = folder.rstrip("/")
    for parent, folders, names in os.walk(base, onerror=_refuse_unless_absent, followlinks=True):
        place = _place(parent)
        if place is None or place in gone_through:
            folders.clear()
            continue
        gone_through.add(place)
        for name in filter(is_utf8, names):
            path = os.path.join(parent, name)
            try:
                state = os.stat(path)
            except OSError as error:
                _refuse_unless_absent(error)
                continue
            if stat.S_ISREG(state.st_mode):
                found[path[len(base) + 1 :]] = state.st_size
        folders[:] = filter(is_utf8, folders) if recursive else []
    return found


def local_folders(folder: str) -> list[str]:
    """Names of the folders in a local folder, sorted; as :func:`local_sizes` lists files."""
    for _, folders, _ in os.walk(folder, onerror=_refuse_unless_absent):
        return sorted(filter(is_utf8, folders))
    return []


def _place(folder: str) -> tuple[int, int] | None:
    try:
        state = os.stat(folder)
    except OSError as error:
        _refuse_unless_absent(error)
        return None
    return state.st_dev, state.st_ino


ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _refuse_unless_absent(error: OSError) -> None:
    if error.errno not in ABSENT:
        raise error


def partial_of(target: Path) -> Path:
    """Where a file is written until it is whole; another place every time, found again by :func:`clean_partials`."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")


def owner_only(path: str, flags: int) -> int:
    """An opener of files that only their owner may read: run folders hold people's text."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file and wait for the disk.

    Raises:
        FileExistsError: there is one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb", opener=owner_only) as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def clean_partials(folder: Path, before: float) -> int:
    """Delete what writers that were killed left half written.

    Args:
        folder: searched with all folders below it; links are not followed.
        before: seconds since 1970 by the clock of that storage; a file that changed later may have a living writer.

    Returns:
        files deleted.
    """
    deleted = 0
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if PARTIAL.fullmatch(name)):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < before:
                    path.unlink()
                    deleted += 1
    return deleted
