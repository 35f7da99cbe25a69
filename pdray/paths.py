"""Paths and URIs, without a filesystem library: globbing of local files and recognition of remote ones."""

from __future__ import annotations

import glob
import os
import re
from urllib.parse import parse_qsl, urlsplit

# user:password@, where the password may hold a slash and a port is none
PASSWORD = re.compile(r"[\w+.-]+://[^/:@?]+:(?!\d+(/|$))[^@?]*@")
SECRETS = ("access_key", "secret_key", "session_token", "sas_token", "account_key", "password")
DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson")
COMPRESSION_SUFFIXES = ("", ".gz", ".zst", ".bz2", ".lz4")


def is_remote(path: str) -> bool:
    """Whether a path names another filesystem, as in ``s3://bucket/key``."""
    return "://" in path


def holds_secret(uri: str) -> bool:
    """Whether a URI carries a password or an access key, as in ``s3://KEY:SECRET@bucket/key``."""
    if PASSWORD.match(uri):
        return True
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        return True
    return any(name.lower() in SECRETS for name, _ in parse_qsl(parts.query, keep_blank_values=True))


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
    return sorted(path for path in found if os.path.isfile(path) and is_data_file(path))
