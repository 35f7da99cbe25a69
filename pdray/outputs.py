"""What the stages of a run have written, as Arrow tables, Ray Data sets and figures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdray.errors import UserError
from pdray.storage import StoragePath

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from pdray.pipeline import Step


@dataclass(frozen=True)
class StageOutput:
    """What a finished stage has written.

    Attributes:
        name: of the stage.
        folder: local path or URI.
        manifest: configuration, fingerprint, versions, rows in and out, seconds, metrics.
    """

    name: str
    folder: str
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``pdray show --json`` takes its figures from."""
        found: dict[str, Any] = self.manifest["metrics"]
        return found

    @property
    def rows(self) -> int:
        """How many rows were written, pairs or texts."""
        return int(self.manifest["rows_out"])

    def files(self, table: str) -> list[str]:
        """The parquet files of a table in the order of its shards, paths on :attr:`filesystem`.

        Raises:
            UserError: the stage has no such table.
        """
        folder = StoragePath(self.folder)
        names = sorted(name for name in (folder / table).sizes() if name.endswith(".parquet"))
        if not names:
            tables = [
                one for one in folder.folders() if any(file.endswith(".parquet") for file in (folder / one).sizes())
            ]
            raise UserError(f"{self.folder} has no table {table!r}; it has {', '.join(tables) or 'none'}")
        return [(folder / table / name).path for name in names]

    @property
    def filesystem(self) -> Any:
        """The ``pyarrow.fs.FileSystem`` that the files are on."""
        return StoragePath(self.folder).filesystem

    def table(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """A whole table in memory, in the order of its shards; :meth:`ray_dataset` for one that does not fit.

        Raises:
            UserError: the stage has no such table.
        """
        import pyarrow.dataset as ds

        return ds.dataset(self.files(table), filesystem=self.filesystem, format="parquet").to_table(columns=columns)

    def ray_dataset(self, table: str, columns: list[str] | None = None) -> Dataset:
        """A table as a Ray Data set, read by the workers of the Ray that this process has started.

        Without one Ray Data starts it when the data set is used; it then listens on loopback only, and
        ``ray.shutdown()`` ends it, which :meth:`Run.run` asks for.

        Raises:
            UserError: the stage has no such table.
        """
        files = self.files(table)
        if "ray" not in sys.modules:
            from pdray.runtime import keep_on_loopback

            keep_on_loopback()
        import ray.data

        return ray.data.read_parquet(files, filesystem=self.filesystem, columns=columns)


def finished(steps: list[Step]) -> dict[str, StageOutput]:
    """The output of every step that is done, by the name of its stage."""
    return {
        step.stage.name: StageOutput(step.stage.name, str(step.folder), step.manifest)
        for step in steps
        if step.manifest is not None
    }
