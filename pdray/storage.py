"""One path for local disks, mounts and object storage: what the run folder and everything in it is read and written by.

A path is a text that any worker can open again: ``/mnt/run/corpus`` or ``s3://bucket/run/corpus?region=…``. Writing
is atomic everywhere: a reader sees the old file, the new one or none, never a part. Credentials come from the
environment of the process, never from the path.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pdray.errors import UserError
from pdray.paths import is_remote

# Snappy is what readers everywhere expect; checksums let a flipped bit be an error and never a number.
PARQUET = {"compression": "snappy", "write_page_checksum": True}


@dataclass(frozen=True)
class StoragePath:
    """A file or folder on local or object storage; picklable, opened where it is used.

    Attributes:
        uri: an absolute local path, or a URI with its options as the query.
    """

    uri: str

    def __truediv__(self, name: str) -> StoragePath:
        location, mark, query = self._parts
        return StoragePath(f"{location.rstrip('/')}/{name}{mark}{query}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._parts[0].rstrip("/").rpartition("/")[2]

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
        return _opened(*self._root)[0]

    @property
    def path(self) -> str:
        """Its path on :attr:`filesystem`."""
        root, rest = self._root
        return _opened(root, rest)[1]

    @property
    def _root(self) -> tuple[str, str]:
        """What decides the filesystem (scheme, bucket, options), and the rest of the path."""
        if self.is_local:
            return "", self.uri
        location, mark, query = self._parts
        scheme, _, rest = location.partition("://")
        bucket, _, key = rest.partition("/")
        return f"{scheme}://{bucket}{mark}{query}", key.strip("/")

    def exists(self) -> bool:
        """Whether there is a file or folder of this name."""
        return self.info().type != pafs.FileType.NotFound

    def info(self) -> pafs.FileInfo:
        """Kind, size and time of the last change."""
        return self.filesystem.get_file_info(self.path)

    def sizes(self, recursive: bool = False) -> dict[str, int]:
        """Bytes of every file in this folder, by its path below the folder; empty where there is no folder."""
        base = self.path.rstrip("/")
        found = self.filesystem.get_file_info(pafs.FileSelector(base, recursive=recursive, allow_not_found=True))
        return {one.path[len(base) :].lstrip("/"): one.size for one in found if one.is_file}

    def folders(self) -> list[str]:
        """Names of the folders in this folder, sorted."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(one.base_name for one in found if one.type == pafs.FileType.Directory)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.filesystem.open_input_stream(self.path) as stream:
            data: bytes = stream.read()
        return data

    def read_json(self) -> Any:
        """The file as JSON.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not JSON, or not UTF-8.
        """
        return json.loads(self.read_bytes().decode("utf-8"))

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
        partial = _partial(Path(self.uri))
        try:
            _write_private(partial, data)
            os.link(partial, self.uri)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
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
    def open_parquet(self, buffer_size: int = 0) -> Iterator[pq.ParquetFile]:
        """The parquet file, to read parts of it.

        Args:
            buffer_size: bytes of each column that are fetched at a time; 0 fetches a column at once.
        """
        with self.filesystem.open_input_file(self.path) as source:
            options = {"buffer_size": buffer_size, "pre_buffer": not buffer_size}
            yield pq.ParquetFile(source, page_checksum_verification=True, **options)

    def write_table(self, table: pa.Table, **options: Any) -> int:
        """Write a parquet file as a whole.

        Args:
            table: the rows; its schema metadata is kept.
            options: of ``pyarrow.parquet.write_table``.

        Returns:
            bytes written.
        """
        with self._output() as stream:
            pq.write_table(table, stream, **{**PARQUET, **options})
            size = int(stream.tell())
        return size

    def make_folder(self) -> None:
        """Create the folder and those above it, where that means anything."""
        if self.is_local:
            Path(self.uri).mkdir(parents=True, exist_ok=True)

    def delete(self) -> None:
        """Delete the file or the whole folder; nothing happens where there is none."""
        kind = self.info().type
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
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(buffer.getvalue())
            return
        target = Path(self.uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(target)
        try:
            with open(partial, "xb", opener=_private) as stream:
                yield stream
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@functools.lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    if not root:
        return pafs.LocalFileSystem(), ""
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (ValueError, OSError) as error:
        raise UserError(f"{root} cannot be opened ({error}); use a local path, s3://… or gs://…") from None
    return filesystem, path


def _opened(root: str, rest: str) -> tuple[pafs.FileSystem, str]:
    filesystem, path = _filesystem(root)
    return filesystem, f"{path}/{rest}".rstrip("/") if root else rest


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_private(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb", opener=_private) as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def copy_folder(source: Path, target: StoragePath) -> None:
    """Copy the files of a local folder, those in its folders included."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        pafs.copy_files(
            str(file),
            (target / file.relative_to(source).as_posix()).path,
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=target.filesystem,
        )


def node_copy(folder: StoragePath, digest: str) -> Path:
    """A folder as a local path: itself where it is local, else a copy on this node, made once per content.

    Args:
        folder: a model folder.
        digest: of its content; another content gets another copy.
    """
    if folder.is_local:
        return Path(folder.uri)
    import tempfile

    root = Path(tempfile.gettempdir()) / f"pdray-models-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UserError(f"{root} belongs to another user; remove it or set TMPDIR")
    target = root / digest[:32]
    if target.is_dir():
        return target
    partial = Path(tempfile.mkdtemp(dir=root))
    pafs.copy_files(
        folder.path, str(partial), source_filesystem=folder.filesystem, destination_filesystem=pafs.LocalFileSystem()
    )
    try:
        os.replace(partial, target)
    except OSError:  # another worker of this node was first
        shutil.rmtree(partial, ignore_errors=True)
    return target
