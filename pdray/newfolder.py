"""A new folder for the user, which is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pdray.errors import UserError
from pdray.filesystems import in_need_of_room
from pdray.paths import is_remote, lacks_a_slash


def check_new_folder(name: str, path: str) -> None:
    """Refuse a folder that cannot be put in its place as a whole, whether or not it is empty.

    Args:
        name: how messages call it, for example ``--out``.
        path: of the folder, which need not be there.

    Raises:
        UserError: it is no local folder, or the one that this process is in, which its shell would lose.
    """
    if is_remote(path):
        raise UserError(f"{name} is {path}, but it is written to a local disk; name a folder, and copy it then")
    if odd := lacks_a_slash(path):
        raise UserError(f"{name}: {odd}")
    with contextlib.suppress(OSError):  # it is not there
        if os.path.samefile(path, "."):
            raise UserError(f"{name} is {path}, the folder that you are in; name a new folder in it")


def is_new(folder: Path) -> bool:
    """Whether an empty folder, a link to one or nothing stands there.

    Raises:
        UserError: it may not be looked at.
    """
    with _writing_to(folder):
        return not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Put a folder in its place when the block ends without an error; a link to an empty folder is followed.

    Args:
        target: an empty folder, or none; the folders above it are made.

    Yields:
        the folder to write to. What is written beside it is gone in the end.

    Raises:
        UserError: the place cannot be written to, or has no room.
    """
    place = Path(os.path.realpath(target))
    with contextlib.ExitStack() as stack:
        with _writing_to(target):
            place.parent.mkdir(parents=True, exist_ok=True)
            # Not by the name of the target, which may be as long as a name may be.
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=place.parent, prefix=".pdray-"))
            folder = Path(scratch) / "new"
            folder.mkdir()
        with in_need_of_room(target):
            yield folder
        with _writing_to(target):
            os.replace(folder, place)


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error}); name another folder") from None
