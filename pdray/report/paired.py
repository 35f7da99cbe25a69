"""The policies of two runs on the same held-out pairs and the same prompts: how much better the second one is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pdray.evaluation.accuracy import Estimate, estimate
from pdray.report.run import RunView
from pdray.report.tables import UnreadableError

PAIRS, COMPARISONS = "pairs.parquet", "comparisons.parquet"
SEED = 0  # of the bootstrap


@dataclass(frozen=True)
class Difference:
    """A figure of the second run less that of the first.

    Attributes:
        name: of the figure.
        found: the difference with its 95% interval; of a pair or prompt both values are drawn together.
    """

    name: str
    found: Estimate

    @property
    def better(self) -> str:
        """Which run it speaks for."""
        if self.found.low > 0:
            return "second run"
        return "first run" if self.found.high < 0 else "cannot be told"


def differences(runs: tuple[RunView, RunView]) -> list[Difference]:
    """The share of held-out pairs that are right, and each judge's win rate against one baseline.

    Left out is a figure whose pairs, prompts or answers of the baseline are not the same in both runs.

    Raises:
        UnreadableError: a table is damaged.
    """
    found = _of(PAIRS, "prompt_hash", runs, ["prompt_hash", "aspect"], {"right": "held-out pairs right"})
    columns = [_names(run, COMPARISONS) for run in runs]
    judges = [name for name in columns[0] if name.startswith("value.") and name in columns[1]]
    told = {name: f"win rate by {name.removeprefix('value.')}" for name in judges}
    return found + _of(COMPARISONS, "prompt", runs, ["prompt", "set", "answer.baseline"], told)


def _of(
    file: str, group: str, runs: tuple[RunView, RunView], same: list[str], figures: dict[str, str]
) -> list[Difference]:
    tables = [_read(run, file, [*same, *figures]) for run in runs]
    first, second = tables
    if first is None or second is None or not first.select(same).equals(second.select(same)):
        return []
    groups = np.unique(np.array(first[group].to_pylist(), dtype=object).astype(str), return_inverse=True)[1]
    return [
        Difference(told, found)
        for name, told in figures.items()
        if (found := _difference(first[name], second[name], groups)) is not None
    ]


def _difference(first: pa.ChunkedArray, second: pa.ChunkedArray, groups: np.ndarray) -> Estimate | None:
    less, more = (one.to_numpy().astype(np.float64) for one in (first, second))
    known = np.isfinite(less) & np.isfinite(more)
    if not known.any():
        return None
    return estimate((more - less)[known], groups[known], SEED)


def _names(run: RunView, file: str) -> list[str]:
    table = _read(run, file, [])
    return [] if table is None else table.schema.names


def _read(run: RunView, file: str, columns: list[str]) -> pa.Table | None:
    """Some columns of a table of the evaluation; None where the run has none."""
    folder = run["evaluation"].folder
    if folder is None or not run["evaluation"].complete:
        return None
    try:
        with (folder / file).open_parquet() as parquet:
            return parquet.schema_arrow.empty_table() if not columns else parquet.read(columns=columns)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        raise UnreadableError(
            f"{folder.name}/{file} cannot be read ({error}); run again, and it is made anew"
        ) from None
