"""A model folder where its files can be opened: one at a URI is copied to this node, once for what lies there."""

from __future__ import annotations

import pyarrow.fs as pafs

from pdray.errors import UserError
from pdray.filesystems import told
from pdray.hashing import digest
from pdray.storage import StoragePath, node_copy


def on_this_node(folder: str) -> str:
    """A model folder as a local path: itself, or this node's copy of one on object storage.

    Raises:
        UserError: no file lies there, the storage cannot be opened, or it refuses the credentials of this process.
    """
    path = StoragePath(folder)
    return folder if path.is_local else str(node_copy(path, copy_key(path)))


def copy_key(folder: StoragePath) -> str:
    """What tells one model folder on object storage from another, and from what lay there before.

    Raises:
        UserError: as :func:`on_this_node`.
    """
    if folder.is_local:
        return ""
    with told(folder.uri):
        selector = pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)
        found = [one for one in folder.filesystem.get_file_info(selector) if one.is_file]
    if not found:
        raise UserError(f"no file lies at {folder}, where a model should be; correct the URI, or copy the model there")
    return digest(folder.uri, *sorted(f"{one.path} {one.size} {one.mtime_ns}" for one in found))
