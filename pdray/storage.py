"""One path for local disks, mounts and object storage: what the run folder and everything in it is read and written by.

A path is a text that any worker can open again: ``/mnt/run/corpus`` or ``s3://bucket/run/corpus?region=…``. Writing
is atomic everywhere: a reader sees the old file, the new one or none, never a part. Credentials come from the
environment of the process, never from the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash

from pdray.errors import UserError
from pdray.filesystems import (
    check_regular,
    in_need_of_room,
    local_folders,
    local_sizes,
    opened,
    owner_only,
    partial_of,
    read_regular,
    told,
    write_private,
)
from pdray.jsontext import parse_json
from pdray.paths import is_remote

DISK_BUFFER = 1 << 20
# So many texts of common lengths are a few MiB, which stay in a core's cache while rows are picked from them.
ROWS_PER_GROUP = 16_384
# LZ4 is read faster than Snappy and is smaller; checksums let a flipped bit be an error and never a number; a page
# that a core's cache holds is decoded faster than one of a MiB, the default.
PARQUET = {"compression": "lz4", "write_page_checksum": True, "data_page_size": 256 << 10}


class Written(NamedTuple):
    """Size of a file, and the XXH3 (64 bits) of its bytes, which tells damage, not intent."""

    bytes: int
    xxh3: int


class _Digested(io.RawIOBase):
    """What is written goes to a stream and into a digest."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.hasher = xxhash.xxh3_64()
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.hasher.update(data)
        self.size += len(data)
        return len(data)


@dataclass(frozen=True)
class StoragePath:
    """A file or folder on local or object storage; picklable, opened where it is used.

    What a user can mend (credentials, a bucket that is not there) is a :class:`UserError` from every method.

    Attributes:
        uri: a local path, or a URI, percent-encoded where it must be, with its options as the query.
    """

    uri: str

    def __truediv__(self, name: str) -> StoragePath:
        location, mark, query = self._parts
        name = name if self.is_local else quote(name)
        return StoragePath(f"{location.rstrip('/')}/{name}{mark}{query}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        name = self._parts[0].rstrip("/").rpartition("/")[2]
        return name if self.is_local else unquote(name)

    @property
    def parent(self) -> StoragePath:
        """The folder that it lies in."""
        location, mark, query = self._parts
        return StoragePath(location.rstrip("/").rpartition("/")[0] + mark + query)

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk or mount of this machine."""
        return not is_remote(self.uri)

    @property
    def local(self) -> Path:
        """The local path.

        Raises:
            UserError: it is on object storage.
        """
        if not self.is_local:
            raise UserError(f"{self.uri} is on object storage, where only a mounted path works; set run to one")
        return Path(self.uri)

    @property
    def _parts(self) -> tuple[str, str, str]:
        return self.uri.partition("?") if is_remote(self.uri) else (self.uri, "", "")

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The filesystem that holds it."""
        return opened(self._root[0])[0]

    @property
    def path(self) -> str:
        """Its path on :attr:`filesystem`."""
        root, key = self._root
        return f"{opened(root)[1]}/{key}".rstrip("/") if root else key

    @property
    def _root(self) -> tuple[str, str]:
        """What decides the filesystem (scheme, bucket, options), and the rest of the path."""
        if self.is_local:
            return "", self.uri
        location, mark, query = self._parts
        scheme, _, rest = location.partition("://")
        bucket, _, key = rest.partition("/")
        return f"{scheme}://{bucket}{mark}{query}", unquote(key).strip("/")

    def exists(self) -> bool:
        """Whether there is a file or folder of this name."""
        return bool(self.info().type != pafs.FileType.NotFound)

    def info(self) -> pafs.FileInfo:
        """Kind, size and time of the last change."""
        with told(self.uri):
            return self.filesystem.get_file_info(self.path)

    def sizes(self, recursive: bool = False) -> dict[str, int]:
        """Bytes of every file in this folder, by its path below the folder; empty where there is no folder."""
        if self.is_local:
            return local_sizes(self.uri, recursive)
        base = self.path.rstrip("/")
        with told(self.uri):
            found = self.filesystem.get_file_info(pafs.FileSelector(base, recursive=recursive, allow_not_found=True))
        return {one.path[len(base) :].lstrip("/"): one.size for one in found if one.is_file}

    def folders(self) -> list[str]:
        """Names of the folders in this folder, sorted."""
        if self.is_local:
            return local_folders(self.uri)
        with told(self.uri):
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(one.base_name for one in found if one.type == pafs.FileType.Directory)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
            OSError: something that is no file stands there.
        """
        if self.is_local:
            return read_regular(self.uri)
        with told(self.uri), self.filesystem.open_input_stream(self.path) as stream:
            data: bytes = stream.read()
        return data

    def read_json(self) -> Any:
        """The file as JSON.

        Raises:
            FileNotFoundError: there is none.
            ValueError: as :func:`~pdray.jsontext.parse_json`.
        """
        return parse_json(self.read_bytes())

    def write_bytes(self, data: bytes) -> None:
        """Write the file as a whole; an older one is replaced."""
        with self._output(durable=True) as stream:
            stream.write(data)

    def write_json(self, value: Any) -> None:
        """Write a JSON value, readable, keys sorted; NaN is refused."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write_bytes(text.encode("utf-8"))

    def put_if_absent(self, data: bytes) -> bool:
        """Write the file unless there is one.

        Exact on local disks and mounts. Object storage is asked first and written then: of two writers in the same
        moment the later one stays, so callers write only what any of them may write.

        Returns:
            whether this call wrote it.
        """
        if not self.is_local:
            if self.exists():
                return False
            self.write_bytes(data)
            return True
        partial = partial_of(Path(self.uri))
        try:
            with in_need_of_room(self.uri):
                write_private(partial, data)
            os.link(partial, self.uri)
        except FileExistsError:
            return False
        except OSError:
            if not partial.exists():
                raise
            return self._create(data)  # a mount without hard links
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _create(self, data: bytes) -> bool:
        try:
            with in_need_of_room(self.uri):
                write_private(Path(self.uri), data)
        except FileExistsError:
            return False
        return True

    def read_table(self, columns: list[str] | None = None) -> pa.Table:
        """A parquet file as a table, by its own columns alone.

        Raises:
            FileNotFoundError: there is none.
            OSError, pyarrow.ArrowInvalid: it is damaged.
        """
        with self.open_parquet() as file:
            return file.read(columns=columns)

    @contextlib.contextmanager
    def open_parquet(self) -> Iterator[pq.ParquetFile]:
        """The parquet file, to read parts of it.

        A column is fetched at once from object storage, which answers late, and in small parts from a disk, which costs
        less memory.
        """
        if self.is_local:
            check_regular(self.uri)
        options = {"buffer_size": DISK_BUFFER, "pre_buffer": False} if self.is_local else {"pre_buffer": True}
        with told(self.uri), self.filesystem.open_input_file(self.path) as source:
            yield pq.ParquetFile(source, page_checksum_verification=True, **options)

    @contextlib.contextmanager
    def open_whole_parquet(self, xxh3: int) -> Iterator[pq.ParquetFile]:
        """The parquet file, once all its bytes are found to be those that were written.

        A digest of the whole costs a quarter of what the checksums of its pages do, which are left aside, and pages are
        decompressed out of the mapped file. An object is fetched at once.

        Args:
            xxh3: as :class:`Written` told it.

        Raises:
            FileNotFoundError: there is none.
            OSError, pyarrow.ArrowInvalid: it holds other bytes.
        """
        if self.is_local:
            check_regular(self.uri)
        with pa.memory_map(self.uri) if self.is_local else pa.BufferReader(self.read_bytes()) as source:
            data = source.read_buffer()
            if xxhash.xxh3_64_intdigest(data) != xxh3:
                raise pa.ArrowInvalid("its bytes are not those that were written")
            yield pq.ParquetFile(pa.BufferReader(data))

    def write_table(self, table: pa.Table, **options: Any) -> Written:
        """Write a parquet file as a whole.

        Args:
            table: the rows; its schema metadata is kept.
            options: of ``pyarrow.parquet.write_table``.

        Returns:
            what was written.
        """
        with self._output() as stream:
            digested = _Digested(stream)
            # Floats hardly repeat: a dictionary of them makes a file larger and slower to read. A list of names would
            # take it from the leaves of nested columns too, such as token ids, so there is one only beside floats.
            others = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
            repeating = others if len(others) < table.num_columns else True
            defaults = {"row_group_size": ROWS_PER_GROUP, "use_dictionary": repeating, **PARQUET}
            pq.write_table(table, digested, **defaults | options)
        return Written(digested.size, digested.hasher.intdigest())

    def make_folder(self) -> None:
        """Create the folder and those above it, where that means anything.

        Raises:
            UserError: a file stands there.
        """
        if not self.is_local:
            return
        try:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.uri} should be a folder, but a file stands there; move it away") from None

    def rename(self, name: str) -> StoragePath:
        """Give a file, or a local folder, another name where it lies; returns the new path."""
        target = self.parent / name
        if self.is_local:
            os.rename(self.uri, target.uri)
        else:
            with told(self.uri):
                self.filesystem.move(self.path, target.path)
        return target

    def delete(self) -> None:
        """Delete the file or the whole folder; nothing happens where there is none."""
        kind = self.info().type
        with told(self.uri):
            if kind == pafs.FileType.Directory:
                if self.is_local:
                    shutil.rmtree(self.uri)
                else:
                    self.filesystem.delete_dir(self.path)
            elif kind != pafs.FileType.NotFound:
                self.filesystem.delete_file(self.path)

    @contextlib.contextmanager
    def _output(self, durable: bool = False) -> Iterator[Any]:
        """A stream whose file appears when the block ends; ``durable`` waits for the disk (tables are verified)."""
        if not self.is_local:
            # Object storage shows an object when its upload is complete. An upload that is left open by an error must
            # not be completed by closing it, so the bytes are gathered first.
            buffer = pa.BufferOutputStream()
            yield buffer
            with told(self.uri), self.filesystem.open_output_stream(self.path) as stream:
                stream.write(buffer.getvalue())
            return
        target = Path(self.uri)
        self.parent.make_folder()
        partial = partial_of(target)
        try:
            with in_need_of_room(target), open(partial, "xb", opener=owner_only) as stream:
                yield stream
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(partial, target)
        except IsADirectoryError:
            raise UserError(f"{target} should be a file, but a folder stands there; move it away") from None
        finally:
            partial.unlink(missing_ok=True)


def copy_folder(source: Path, target: StoragePath) -> None:
    """Copy the files of a local folder, those in its folders included."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / file.relative_to(source).as_posix()
        copy.parent.make_folder()
        with told(target.uri):
            pafs.copy_files(
                str(file),
                copy.path,
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=target.filesystem,
            )


def node_copy(folder: StoragePath, digest: str) -> Path:
    """A folder as a local path: itself where it is local, else a copy on this node, made once per content.

    Args:
        folder: a model folder.
        digest: of its content; another content gets another copy.

    Raises:
        UserError: another user has taken the place of the copies.
    """
    if folder.is_local:
        return Path(folder.uri)
    root = Path(tempfile.gettempdir()) / f"pdray-models-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{root} belongs to another user; remove it or set TMPDIR")
    target = root / digest[:32]
    if not target.is_dir():
        with _alone(root):  # each worker of a training asks for it at once
            if not target.is_dir():
                _copy_to_node(folder, root, target)
    return target


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this node at a time; the kernel lets go of what a process that ends has held."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _copy_to_node(folder: StoragePath, root: Path, target: Path) -> None:
    partial = Path(tempfile.mkdtemp(dir=root))
    try:
        with told(folder.uri), in_need_of_room(root):
            pafs.copy_files(
                folder.path,
                str(partial),
                source_filesystem=folder.filesystem,
                destination_filesystem=pafs.LocalFileSystem(),
            )
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
