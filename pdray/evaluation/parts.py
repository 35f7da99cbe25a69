"""What evaluations of a run share: tables by the digest of all that decides them.

    <run>/shared/answers/<digest>.parquet     the answers of one policy to some prompts
    <run>/shared/rewards/<digest>.parquet     the rewards of one judge for some answers
    <run>/shared/verdicts/<digest>.parquet    the verdicts of one judge on some comparisons
    <run>/shared/held-out/<digest>.parquet    log-probabilities of some held-out pairs

A part appears as a whole, so a killed evaluation loses the parts under way, and another one with the same policy,
prompts or judge finds what is there. The folders may be deleted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pdray.hashing import digest
from pdray.storage import StoragePath
from pdray.store import SHARED


@dataclass(frozen=True)
class Parts:
    """Parts of one kind; picklable.

    Attributes:
        folder: that they lie in.
    """

    folder: StoragePath

    def read(self, key: str) -> pa.Table | None:
        """A part; None where it is not there, or damaged, and then it is deleted.

        Raises:
            OSError: the storage does not answer.
        """
        path = self.folder / f"{key}.parquet"
        try:
            return path.read_table()
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError):
            path.read_bytes()  # storage that does not answer is no reason to delete
            path.delete()
            return None

    def write(self, key: str, table: pa.Table) -> None:
        """Add a part; one that was there is replaced."""
        (self.folder / f"{key}.parquet").write_table(table)


def shared_parts(run: StoragePath, kind: str) -> Parts:
    """The parts of a kind in a run folder."""
    return Parts(run / SHARED / kind)


def key_of(*values: Any) -> str:
    """The digest of JSON values."""
    return digest(*(json.dumps(value, sort_keys=True, ensure_ascii=False) for value in values))
