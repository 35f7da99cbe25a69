"""What a file of a corpus seems to be when it is not what its name says, told with the way to convert it."""

from __future__ import annotations

import json
import re

import pyarrow.fs as pafs

from pdray.paths import not_readable

HEAD_BYTES = 64 * 1024
NEEDED = "pdray reads parquet, and JSONL: one JSON object a line"
OTHERS = "or give corpus.path the other files alone"
# First bytes -> what the file is, and what to do about it.
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "rename it so that its name ends with .jsonl.gz"),
    (b"BZh", "bzip2", "rename it so that its name ends with .jsonl.bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd", "rename it so that its name ends with .jsonl.zst"),
    (b"\x04\x22\x4d\x18", "LZ4", "rename it so that its name ends with .jsonl.lz4"),
    (b"\xfd7zXZ", "xz", "unpack it with: xz -d"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save its table as parquet"),
    (b"PAR1", "parquet", "rename it so that its name ends with .parquet"),
    (b"ARROW1", "an Arrow file", "convert it: pyarrow.parquet.write_table(pyarrow.feather.read_table(FILE), OUT)"),
    (b"SQLite format 3", "an SQLite database", "export its table: pandas.read_sql(QUERY, URI).to_parquet(OUT)"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file", "fetch the file with: git lfs pull"),
)
STORAGE = ("AWS Error", "google::cloud")
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_head(filesystem: pafs.FileSystem, path: str) -> bytes:
    """The first bytes of a file as they lie there, not unpacked.

    Raises:
        OSError: it cannot be read.
    """
    with filesystem.open_input_stream(path, compression=None) as stream:
        head: bytes = stream.read(HEAD_BYTES)
    return head


def unreadable(path: str, error: Exception) -> str:
    """A sentence about a file of a corpus that cannot be read: its storage may be to blame, or its mode."""
    if isinstance(error, PermissionError):
        return not_readable(path)
    cure = "run again when its storage answers" if is_away(error) else "repair or remove it"
    return f"{path} cannot be read ({' '.join(str(error).split())}); {cure}"


def is_away(error: Exception) -> bool:
    """Whether an error is one of object storage, by the words that Arrow has for those."""
    return isinstance(error, OSError) and any(word in str(error) for word in STORAGE)


def wrong_kind(path: str, head: bytes, is_text: bool) -> str | None:
    """A sentence about a file that is surely of another kind than its name says.

    Args:
        path: of the file.
        head: its first bytes.
        is_text: whether it is JSONL by its name, and not packed.
    """
    for magic, kind, cure in MAGIC:
        if head.startswith(magic) and (is_text or kind.startswith("a pointer")):
            return f"{path} is {kind}; {cure}, {OTHERS}"
    if not is_text:
        return None
    if head.startswith(UTF16):
        return f"{path} is UTF-16 or UTF-32 text; convert it with: iconv -f UTF-16 -t UTF-8"
    if b"\0" in head:
        return f"{path} is binary; {NEEDED}: convert it, {OTHERS}"
    return None


def unreadable_kind(path: str, head: bytes) -> str:
    """A sentence about a text file of whose first lines none is a JSON object, by its first bytes."""
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    lines = text.splitlines()
    if not text:
        return f"{path} is empty; {NEEDED}"
    if b"\r" in head and b"\n" not in head:
        return f"{path} ends its lines with carriage returns alone; convert it with: tr '\\r' '\\n'"
    if text.startswith("\x1e"):
        return f"{path} is a JSON text sequence; take the record separators out with: tr -d '\\036'"
    if re.match(r"<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return f"{path} is HTML or XML, perhaps an error page in place of a download; {NEEDED}: fetch it again"
    if re.match(r"\[\s*\{", text):
        return f"{path} is one JSON array; write one object a line with: jq -c '.[]' {path}"
    if re.match(r"\{\s*(\"|\Z)", text) and not _is_object(lines[0]):
        return f"{path} is JSON objects that go over several lines; write one a line with: jq -c . {path}"
    if _is_object(lines[0]):
        return f"{path} is JSONL; rename it so that its name ends with .jsonl"
    if text.startswith("{'"):
        return f"{path} is Python dictionaries and no JSON; {NEEDED}: write each row with json.dumps"
    if text.startswith("["):
        return f"{path} is JSON lists, without the names of columns; {NEEDED}"
    for mark, kind in (("\t", "tab-separated"), (",", "comma-separated"), (";", "semicolon-separated")):
        if len(lines) > 1 and lines[0].count(mark) and lines[1].count(mark) >= lines[0].count(mark):
            cure = f"pandas.read_csv({path!r}, sep={mark!r}).to_parquet(OUT)"
            return f"{path} is {kind} text (CSV); {NEEDED}: convert it with {cure}"
    shown = lines[0][:60]
    return f"{path} holds no JSON object in its first lines, which begin with {shown!r}; {NEEDED}"


def packed_kind(path: str, start: bytes, is_readable: bool) -> str | None:
    """The same about what is in a packed file, by how that begins.

    Args:
        path: of the file.
        start: of what is in it.
        is_readable: whether one of the first lines is a JSON object.
    """
    inner, start = path.rpartition("/")[2].rpartition(".")[0], start[:HEAD_BYTES]
    told = wrong_kind(inner, start, is_text=True) or (None if is_readable else unreadable_kind(inner, start))
    return told and f"in {path}, {told}"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
