"""The kept pairs of a run as a data set with a card, in the layout of the hub; shard by shard."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.errors import UserError, reason
from pdray.hashing import uniform
from pdray.newfolder import check_new_folder, is_new, made_whole
from pdray.report.run import RunView, read_run
from pdray.report.tables import ODD, PairTables, UnreadableError
from pdray.schema import KEPT, UNLICENSED
from pdray.sharing.card import CARD, Sample, find_license, write_card
from pdray.sharing.files import FORMATS, SplitFiles

TRAIN, TEST = "train", "test"
SAMPLES = 3
COUNTED_SOURCES = 10_000  # so that a source of its own for each pair fills no memory; and licences
MODE = 0o755  # a data set is made to be handed on; the run folder is its owner's alone


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: that holds ``README.md`` and ``data/``.
        pairs: split -> pairs.
        sources: name -> pairs that came from there; None of more sources than a card can tell.
        licenses: name -> pairs under it; empty of a corpus without licences, None as of sources.
        license: as the card states it.
        samples: the pairs that the card shows.
    """

    folder: Path
    pairs: dict[str, int]
    sources: Counter[str] | None = field(default_factory=Counter)
    licenses: Counter[str] | None = field(default_factory=Counter)
    license: str = "unknown"
    samples: list[Sample] = field(default_factory=list)

    def __str__(self) -> str:
        splits = " and ".join(f"{number:,} pairs to {split}" for split, number in self.pairs.items())
        return f"{self.folder}: {splits} on; licence: {self.license}; {CARD} is the card"


def export(
    run: str | Path, out: str | Path, form: str = "parquet", test: float = 0.0, license: str | None = None
) -> Exported:
    """Write ``README.md`` and ``data/`` with ``pair_id, prompt, chosen, rejected, aspect, source, pd``.

    Where the corpus has licences, ``license`` follows ``source``.
    ``pd`` is null where the strategy needs none. All pairs of a prompt are in the same split, by a seeded hash of the
    prompt, so that another budget of the same run never moves a test pair to the training pairs.

    Args:
        run: folder of a run whose selection is finished, local or on object storage.
        out: a new or empty local folder. It is there only once it is whole.
        form: parquet, jsonl or lance.
        test: share of the prompts whose pairs are set aside, in [0, 1).
        license: of the texts; None takes that of the kept pairs, or what ``pdray data`` wrote beside the corpus.

    Raises:
        UserError: there is no finished selection, a table or a manifest is gone or damaged, the licence beside the
            corpus cannot be read, Lance is not installed, or the folder is no local one or cannot be written.
    """
    if not 0 <= test < 1:
        raise UserError(f"--test is {test}; give a share of the prompts from 0 to below 1")
    check_new_folder("the folder", str(out))
    view = read_run(run)
    try:
        return _export(view, out, form, test, license)
    except UnreadableError as error:
        raise UserError(f"{view.root}: {error}; pdray run makes it again") from None
    except UserError:
        raise
    except ODD as error:
        raise UserError(
            f"{view.root}: run.json or a stage's manifest.json holds values that are none of pdray's "
            f"({reason(error)}); delete the one that was changed, and pdray run makes it again"
        ) from None


def _export(view: RunView, out: str | Path, form: str, test: float, license: str | None) -> Exported:
    tables = PairTables.of(view)
    if tables is None and view.rounds:
        latest = f"{view.root}/{view.rounds[-1]}"
        raise UserError(
            f"{view.root} was made in rounds, each a run of its own with a selection; name one, as in: pdray export "
            f"{latest} {out}"
        )
    if tables is None:
        raise UserError(f"{view.root} has no finished selection; pdray run makes one, pdray show tells what is missing")
    terms = license or (None if tables.licensed else find_license(view) or UNLICENSED)
    target = Path(out)
    if not str(out) or not is_new(target):
        raise UserError(f"{str(out) or 'an empty name'} is no new or empty folder; name another")
    with made_whole(target) as partial:
        done = _write(view, tables, partial, FORMATS[form], test)
        done.folder = target
        done.license = terms or (next(iter(done.licenses)) if done.licenses and len(done.licenses) == 1 else "other")
        write_card(view, partial, done, form)
        partial.chmod(MODE)
    return done


def _write(view: RunView, tables: PairTables, folder: Path, form: type[SplitFiles], test: float) -> Exported:
    splits = (TRAIN, TEST) if test else (TRAIN,)
    files = {split: form(folder / "data", split) for split in splits}
    found = Exported(folder, dict.fromkeys(splits, 0))
    first: list[tuple[float, str, Sample]] = []
    salt = f"export {view.config.get('seed', 0)}"
    try:
        for table in _kept(tables):
            found.sources = _counted(found.sources, table["source"].drop_null().to_pylist())
            if tables.licensed:
                names = [name or UNLICENSED for name in table["license"].to_pylist()]
                found.licenses = _counted(found.licenses, names)
            in_test = (
                uniform(map(str, table["prompt"].to_pylist()), salt) < test if test else np.zeros(len(table), bool)
            )
            for split, mask in ((TRAIN, ~in_test), (TEST, in_test)):
                if mask.any():
                    files[split].write(table.filter(pa.array(mask)))
                    found.pairs[split] += int(mask.sum())
            first = heapq.nsmallest(SAMPLES, [*first, *_firsts(table)])
    finally:
        for split_files in files.values():
            split_files.close()
    if empty := [split for split, number in found.pairs.items() if not number]:
        raise UserError(f"no pair would be in the split {empty[0]}; keep more pairs, or choose another --test")
    found.samples = [sample for *_, sample in first]
    return found


def _counted(counts: Counter[str] | None, names: list[str]) -> Counter[str] | None:
    """The counts with some names more; None of more than :data:`COUNTED_SOURCES`."""
    if counts is not None:
        counts.update(names)
    return counts if counts is not None and len(counts) <= COUNTED_SOURCES else None


def _kept(tables: PairTables) -> Iterator[pa.Table]:
    """The kept pairs of each shard that has some."""
    for shard in range(tables.num_shards):
        pairs, kept = tables.read(shard), tables.selection.whole(KEPT, shard)
        mask = pa.array(pairs.kept)
        if pairs.ids.filter(mask) != kept["pair_id"]:
            raise UnreadableError(
                f"{tables.selection.folder.name}/{KEPT} does not hold the kept pairs of shard {shard}"
            )
        if len(kept):
            divergence = pa.array(pairs.divergence, from_pandas=True).filter(mask)
            table = kept.replace_schema_metadata(None).append_column("source", pairs.source.filter(mask))
            if pairs.license is not None:
                table = table.append_column("license", pairs.license.filter(mask))
            yield table.append_column("pd", divergence)


def _firsts(table: pa.Table) -> list[tuple[float, str, Sample]]:
    """The pairs of most negative divergence, and of equal ones those of the smaller id."""
    divergence = np.nan_to_num(table["pd"].to_numpy(), nan=0.0)
    rows = np.lexsort((np.array(table["pair_id"].to_pylist(), object), divergence))[:SAMPLES]
    picked: list[dict[str, Any]] = table.take(rows).to_pylist()
    return [(float(divergence[row]), pair["pair_id"], Sample.of(pair)) for row, pair in zip(rows, picked, strict=True)]
