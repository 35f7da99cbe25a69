"""Paths and URIs, without a filesystem library: globbing of local files and recognition of remote ones."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from pdray.errors import UserError

SECRETS = (
    # user:password@, where the password may hold a slash and a port is none
    re.compile(r"://[^/:@?]*:(?!\d+([/?&#]|$))[^@?]*@"),
    # a token in place of the user
    re.compile(r"\bhttps?://[^/?#&]*@", re.IGNORECASE),
    # settings of storage, and what signs an address for whoever holds it
    re.compile(
        r"[?&#;]((aws)?[_-]?(access[_-]?key([_-]?id)?|secret[_-]?(access[_-]?)?key)|"
        r"x-(amz|goog)-(signature|credential)|signature|sig|shared[_-]?access[_-]?signature|"
        r"([\w-]*[_-])?(token|secret|password|passwd|pwd|bearer|credentials?)|(access|auth|id|session|sas)token|"
        r"((account|api|private|shared|subscription)[_-]?)?key|(client[_-]?)?secret|auth(orization)?)=",
        re.IGNORECASE,
    ),
)
STAGE_FOLDER = re.compile(r"/(corpus|proxies|scores|selection|alignment)-[0-9a-f]{8}/")
DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson")
COMPRESSION_SUFFIXES = ("", ".gz", ".zst", ".bz2", ".lz4")
MOST_LINKS = 1000  # to folders that were gone through: ten folders that all lead to each other make millions of paths


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


def is_inside(path: str, folder: str) -> bool:
    """Whether a local path is a folder, or lies in it, by whatever links."""
    real = os.path.realpath(folder)
    return os.path.commonpath([real, os.path.realpath(path)]) == real


def lacks_a_slash(path: str) -> str | None:
    """A sentence about a path that seems to be a URI with a typing error, and would be a folder here; else None."""
    if not (match := re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?=/(?!/))", path)):
        return None
    return f"{path} is a folder named {match[0]!r} here; write {match[0]}//… for a URI, or ./{path} for such a folder"


def is_data_file(path: str) -> bool:
    """Whether the name ends like one of the corpus formats, compressed or not."""
    name = path.lower()
    return any(name.endswith(suffix + packed) for suffix in DATA_SUFFIXES for packed in COMPRESSION_SUFFIXES)


def expand(pattern: str) -> list[str]:
    """Local data files that a path, folder or glob stands for, sorted. A file named outright always counts.

    Links are followed: a folder that several lead to is gone through under each name, as the names may say what its
    rows are (``aspect=helpful/``), but never below itself, where its files are there already.

    Raises:
        UserError: a folder on the way cannot be listed, a data file is a link that leads nowhere, or more than
            :data:`MOST_LINKS` links lead to folders that were gone through under another name.
    """
    if os.path.isfile(pattern):
        return [pattern]
    parts = [part for part in pattern.split("/") if part]
    top = "/" if pattern.startswith("/") else ""
    found = _below(pattern, ["**"]) if os.path.isdir(pattern) else _below(top, parts) if parts else ()
    return sorted({path for path in found if is_data_file(path)})  # a file matches `**/**` several times


def _below(top: str, parts: list[str]) -> Iterator[str]:
    """Files that the parts of a glob lead to from a folder, the current one for an empty text.

    :mod:`glob` leaves out without a word what it may not list, and follows links in circles without an end.
    """
    # A folder, what is left of the glob below it, and where it and the folders that were come through lie.
    pending: list[tuple[str, list[str], tuple[str, ...]]] = [(top, parts, ())]
    seen: set[tuple[str, int]] = set()  # places, and how much of the glob was left there
    again = 0
    while pending:
        folder, (part, *rest), places = pending.pop()
        if not glob.has_magic(part):
            path = os.path.join(folder, part)
            if rest and os.path.isdir(path):
                pending.append((path, rest, ()))
            elif not rest and os.path.isfile(path):
                yield path
            continue
        places = places or (os.path.realpath(folder),)
        after = [part, *rest] if part == "**" else rest
        if part == "**":
            pending.append((folder, rest or ["*"], places))
        for entry in _listed(folder):
            path = os.path.join(folder, entry.name)
            if not fnmatch.fnmatchcase(entry.name, part) or (entry.name[0] == "." and part[0] != "."):
                continue
            if not after and _is_file(entry):
                yield path
            elif after and _asked(entry.is_dir, path):
                place = os.path.realpath(path) if entry.is_symlink() else os.path.join(places[-1], entry.name)
                if any(os.path.commonpath([place, one]) == place for one in places):
                    continue
                again += entry.is_symlink() and (place, len(after)) in seen
                if again > MOST_LINKS:
                    raise UserError(
                        f"more than {MOST_LINKS:,} links lead to folders that are read under another name, the last "
                        f"{path}; take links away, or name the files without them"
                    )
                seen.add((place, len(after)))
                pending.append((path, after, (*places, place)))


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}), and no file in it may be left out; open it to the user of "
            "this process, or name the files without it"
        ) from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    found = _asked(entry.is_file, entry.path)
    if not found and is_data_file(entry.name) and not os.path.exists(entry.path):
        raise UserError(f"{entry.path} is a link that leads to no file; mend it or take it away")
    return found


def _asked(question: Callable[[], bool], path: str) -> bool:
    """What the system says of an entry, whose links it follows; a link that leads to itself is nothing."""
    try:
        return question()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise UserError(f"{path} cannot be read ({error.strerror}); open it to the user of this process") from None


def takes_in(pattern: str, run: str) -> str | None:
    """The run folder, or a stage folder of any run, whose files a local pattern takes in; None where there is none.

    A pattern that names such a folder outright means it: the kept pairs of a run may be the corpus of another.
    """
    if os.path.isfile(pattern):
        return None
    fixed = pattern
    if os.path.isdir(pattern):
        if run and not is_remote(run) and is_inside(run, pattern):
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
