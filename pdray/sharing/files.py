"""The files of one split, begun anew when one is large enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pdray.errors import UserError

MOST_BYTES = 2**28  # of a file's rows in memory; the hub shows files of some hundred MB well


class SplitFiles(ABC):
    """``data/<split>-00000.<suffix>``, ``…-00001.<suffix>``, …; the folder is made with the first.

    Args:
        folder: of all splits.
        split: its name.
    """

    suffix: str
    inside = ""  # after the name, in the pattern of all that belongs to it

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self._number, self._bytes = 0, 0
        self._file: Any = None

    def write(self, table: pa.Table) -> None:
        """Add rows; all calls give the same schema."""
        if self._file is None:
            self.folder.mkdir(exist_ok=True)
            self._file = self._open(self.folder / f"{self.split}-{self._number:05d}.{self.suffix}", table.schema)
            self._number += 1
        self._add(table)
        self._bytes += table.nbytes
        if self._bytes >= MOST_BYTES:
            self.close()

    def close(self) -> None:
        """End the file that is open."""
        if self._file is not None:
            self._file.close()
        self._file, self._bytes = None, 0

    @abstractmethod
    def _open(self, path: Path, schema: pa.Schema) -> Any: ...

    @abstractmethod
    def _add(self, table: pa.Table) -> None: ...


class ParquetFiles(SplitFiles):
    """With Snappy, which readers everywhere expect."""

    suffix = "parquet"

    def _open(self, path: Path, schema: pa.Schema) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(path, schema, compression="snappy")

    def _add(self, table: pa.Table) -> None:
        self._file.write_table(table)


class JsonLines(SplitFiles):
    """An object a line, in UTF-8."""

    suffix = "jsonl"

    def _open(self, path: Path, schema: pa.Schema) -> IO[str]:
        return open(path, "w", encoding="utf-8", newline="\n")

    def _add(self, table: pa.Table) -> None:
        import json

        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


class LanceFiles(SplitFiles):
    """A folder each, which is a Lance data set of one version; its rows are held until it ends."""

    suffix = "lance"
    inside = "/**"

    def _open(self, path: Path, schema: pa.Schema) -> LanceFolder:
        return LanceFolder(path)

    def _add(self, table: pa.Table) -> None:
        self._file.tables.append(table)


class LanceFolder:
    """Rows that become a Lance data set when it is closed.

    Raises:
        UserError: Lance is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import lance
        except ImportError:
            raise UserError(
                "Lance is not installed here; pip install 'pdray[lance]', or take --format parquet"
            ) from None
        self._write, self._path = lance.write_dataset, str(path)
        self.tables: list[pa.Table] = []

    def close(self) -> None:
        """Write the rows."""
        self._write(pa.concat_tables(self.tables), self._path)


FORMATS: dict[str, type[SplitFiles]] = {form.suffix: form for form in (ParquetFiles, JsonLines, LanceFiles)}
