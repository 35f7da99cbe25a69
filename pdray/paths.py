"""Paths and URIs, without a filesystem library: globbing of local files and recognition of remote ones."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from urllib.parse import unquote

SECRETS = (
    # user:password@, where the password may hold a slash and a port is none
    re.compile(r"://[^/:@?]*:(?!\d+([/?&#]|$))[^@?]*@"),
    # a token in place of the user
    re.compile(r"\bhttps?://[^/?#&]*@", re.IGNORECASE),
    # settings of storage, and what signs an address for whoever holds it
    re.compile(
        r"[?&#;]((aws)?[_-]?(access[_-]?key([_-]?id)?|secret[_-]?(access[_-]?)?key|session[_-]?token)|"
        r"x-(amz|goog)-(signature|credential|security-token)|signature|sig|"
        r"((access|auth|sas)[_-]?)?token|((account|api)[_-]?)?key|(client[_-]?)?secret|password)=",
        re.IGNORECASE,
    ),
)
STAGE_FOLDER = re.compile(r"/(corpus|proxies|scores|selection|alignment)-[0-9a-f]{8}/")
DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson")
COMPRESSION_SUFFIXES = ("", ".gz", ".zst", ".bz2", ".lz4")


def is_remote(path: str) -> bool:
    """Whether a path names another filesystem, as in ``s3://bucket/key``."""
    return "://" in path


def is_closed(path: str) -> bool:
    """Whether a local file or folder may not be read by the user of this process, or lies below such a folder."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return not os.access(path, os.R_OK | (os.X_OK if is_folder else 0), effective_ids=True)


def not_readable(path: str, why: str = os.strerror(errno.EACCES)) -> str:
    """A sentence about a local file or folder that the system does not open; all that look at it say the same."""
    return f"{path} cannot be read ({why}); open it to the user of this process, or leave it out"


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; a path or a word of the command line that is not has lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def holds_secret(uri: str) -> bool:
    """Whether a text has a URI with a password, key, token or signature, as in ``s3://KEY:SECRET@bucket/key``.

    Percent-encoding hides none. What has no ``://`` is a local path, whose name may hold anything.
    """
    while (decoded := unquote(uri)) != uri:
        uri = decoded
    return is_remote(uri) and any(pattern.search(uri) for pattern in SECRETS)


def without_secret(text: str) -> str:
    """The text as a message may quote it."""
    return "a value with a secret in it" if holds_secret(text) else repr(text)


def absolute(path: str) -> str:
    """The path seen from any working directory; URIs are returned unchanged."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def is_data_file(path: str) -> bool:
    """Whether the name ends like one of the corpus formats, compressed or not."""
    name = path.lower()
    return any(name.endswith(suffix + packed) for suffix in DATA_SUFFIXES for packed in COMPRESSION_SUFFIXES)


def expand(pattern: str) -> list[str]:
    """Local data files that a path, folder or glob stands for, sorted. A file named outright always counts."""
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "**", "*")
    found = set(glob.glob(pattern, recursive=True))  # a file matches `**/**` several times
    files = [path for path in found if os.path.isfile(path) and is_data_file(path)]
    folders = {os.path.dirname(path) for path in files}
    circles = {folder for folder in folders if _in_a_circle(folder)}
    return sorted(path for path in files if os.path.dirname(path) not in circles)


def _in_a_circle(folder: str) -> bool:
    """Whether a folder of a path is a link to one that the path has come through: its files are there already."""
    if os.path.islink(folder):
        real, above = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
        if os.path.commonpath([real, above]) == real:
            return True
    parent = os.path.dirname(folder)
    return parent != folder and _in_a_circle(parent)


def takes_in(pattern: str, run: str) -> str | None:
    """The run folder, or a stage folder of any run, whose files a local pattern takes in; None where there is none.

    A pattern that names such a folder outright means it: the kept pairs of a run may be the corpus of another.
    """
    if os.path.isfile(pattern):
        return None
    fixed = pattern
    if os.path.isdir(pattern):
        real = os.path.realpath(pattern)
        if run and not is_remote(run) and os.path.commonpath([real, os.path.realpath(run)]) == real:
            return run
    elif match := re.search(r"[*?\[]", pattern):
        fixed = pattern[: match.start()].rpartition("/")[0]
        if run and _matches(pattern, os.path.join(run, "run.json")):
            return run
    for path in expand(pattern):
        folder = STAGE_FOLDER.search(path, len(fixed))
        if folder and os.path.isfile(os.path.join(path[: folder.start()], "run.json")):
            return path[: folder.end()].rstrip("/")
    return None


def _matches(pattern: str, path: str) -> bool:
    from fsspec.utils import glob_translate

    try:
        return re.match(glob_translate(pattern), path) is not None
    except ValueError:  # fsspec knows no `a**`, which means `a*` to Python
        return False
