"""Shards: the unit of work, of reuse and of resume, one mechanism for every stage that maps them.

    <stage>-<hash8>/
      <table>/shard-00017.parquet     one or several tables, each with the digest of its inputs in its footer
      shards/shard-00017.json         the marker, written last

A shard is done when its marker stands as it was written and every file that it names is there with its bytes, its
rows and the digest of its inputs. Anything else is not there: it is done again, and writing it twice writes the same
bytes. This module lists, verifies, counts attempts and reports; what runs the attempts is Ray's.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdray import metrics, tracing
from pdray.errors import UserError
from pdray.filesystems import read_ahead
from pdray.storage import StoragePath

ROUNDS = 3
LOST = "its worker was lost"
MARKERS = "shards"
MARKER_FILE = re.compile(MARKERS + r"/shard-([0-9]{5,})\.json")
INPUTS_KEY = b"pdray.inputs"
CONTENT = "content"  # fact of a marker whose numbers another machine may give with other last digits
VERIFY_THREADS = 16
VERIFIED_AT_ONCE = 1024
ROWS_PER_PART = 2048


def shard_name(shard: int) -> str:
    """``shard-00017``."""
    return f"shard-{shard:05}"


@dataclass(frozen=True)
class Marker:
    """What is known of a finished shard.

    Attributes:
        shard: its number.
        inputs: digest of everything that decides its content.
        files: path below the stage folder -> ``bytes`` and ``rows``, of tables and of what lies beside them, and of
            tables the ``xxh3`` of the whole file.
        ids_sum: sum of the hashes of the ids in it, modulo 2 to the power of their bits.
        facts: counts that the stage adds up over its shards.
    """

    shard: int
    inputs: str
    files: dict[str, dict[str, int]]
    ids_sum: int
    facts: dict[str, Any]

    def rows(self, table: str) -> int:
        """Of one of its tables; 0 where it has none of that name."""
        return sum(stated["rows"] for name, stated in self.files.items() if name.startswith(f"{table}/"))


class Markers(Mapping[int, Marker]):
    """Markers by shard, kept as they are written: as objects they would take the driver five times the memory."""

    def __init__(self, markers: Iterable[Marker]) -> None:
        self._written = {marker.shard: json.dumps(vars(marker)).encode() for marker in markers}

    def __getitem__(self, shard: int) -> Marker:
        return Marker(**json.loads(self._written[shard]))

    def __contains__(self, shard: object) -> bool:
        return shard in self._written

    def __iter__(self) -> Iterator[int]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)


@dataclass(frozen=True)
class ShardedFolder:
    """The shards of one stage; picklable, workers write through it.

    Attributes:
        folder: the stage folder.
        fingerprint: of the stage; with a shard's number it decides the digest of its inputs.
        num_shards: S.
    """

    folder: StoragePath
    fingerprint: str
    num_shards: int

    def inputs(self, shard: int) -> str:
        """The digest that ties a shard's files to this stage and number."""
        return hashlib.sha256(f"{self.fingerprint}/{shard}/{self.num_shards}".encode()).hexdigest()[:32]

    def table(self, name: str, shard: int) -> StoragePath:
        """Where a table of a shard lies."""
        return self.folder / name / f"{shard_name(shard)}.parquet"

    def marker_path(self, shard: int) -> StoragePath:
        """Where the marker of a shard lies."""
        return self.folder / MARKERS / f"{shard_name(shard)}.json"

    def write(
        self,
        shard: int,
        tables: dict[str, pa.Table],
        ids_sum: int,
        facts: dict[str, Any],
        lines: dict[str, list[str]] | None = None,
        whole: Collection[str] = (),
        **options: Any,
    ) -> Marker:
        """Write the tables of a shard, and what lies beside them, then its marker.

        Args:
            shard: its number.
            tables: name -> rows; an empty table is a file too.
            ids_sum: see :class:`Marker`.
            facts: JSON values.
            lines: folder -> JSON objects, a line each, of ``<folder>/shard-00017.jsonl``; without any there is no file.
            whole: tables that are only read by :meth:`whole`, :meth:`batches` and :meth:`parts`, by the digest of the
                file; checksums of their pages are left out.
            options: of :meth:`StoragePath.write_table`.
        """
        inputs, files = self.inputs(shard), {}
        for name, table in tables.items():
            path = self.table(name, shard)
            metadata = {**(table.schema.metadata or {}), INPUTS_KEY: inputs.encode()}
            checksums = {"write_page_checksum": False} if name in whole else {}
            written = path.write_table(table.replace_schema_metadata(metadata), **options | checksums)
            files[f"{name}/{path.name}"] = {**written._asdict(), "rows": len(table)}
        for name, objects in (lines or {}).items():
            content = "".join(line + "\n" for line in objects).encode()
            if content:
                path = self.folder / name / f"{shard_name(shard)}.jsonl"
                path.write_bytes(content)
                files[f"{name}/{path.name}"] = {"bytes": len(content), "rows": len(objects)}
        marker = Marker(shard, inputs, files, ids_sum % 2**64, facts)
        content = json.loads(json.dumps(asdict(marker)))
        self.marker_path(shard).write_json(content | {"digest": _digest(content)})
        return marker

    def read(self, name: str, shard: int, columns: list[str] | None = None) -> pa.Table:
        """A table of a shard.

        Raises:
            UserError: it is gone or damaged since it was verified; the shard counts as missing from now on.
            OSError: the storage does not answer.
        """
        with self._undamaged(name, shard) as path:
            return path.read_table(columns)

    def whole(self, name: str, shard: int) -> pa.Table:
        """A table of a shard, once the bytes of its file are found to be those that were written.

        Raises:
            UserError: as :meth:`read`, and where the shard's marker is gone.
            OSError: the storage does not answer.
        """
        with self._digested(name, shard) as file:
            return file.read()

    def read_ahead(self, name: str, shard: int) -> None:
        """Have a table on the disk read while something else is done; object storage does that for nobody."""
        path = self.table(name, shard)
        if path.is_local:
            read_ahead(path.uri)

    def parts(self, name: str, shard: int, column: str) -> Iterator[pa.Array]:
        """A column of a table of a shard in parts that a core's cache holds, in order; one that is empty for no rows.

        Raises:
            UserError, OSError: as :meth:`whole`.
        """
        with self._digested(name, shard) as file:
            if not file.metadata.num_rows:
                yield file.schema_arrow.empty_table()[column].combine_chunks()
            for batch in file.iter_batches(ROWS_PER_PART, columns=[column], use_threads=False):
                yield batch[column]

    def batches(self, name: str, shard: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """A table of a shard in batches of at most so many rows, in order.

        Raises:
            UserError, OSError: as :meth:`whole`.
        """
        with self._digested(name, shard) as file:
            yield from file.iter_batches(rows, columns=columns)

    @contextlib.contextmanager
    def _digested(self, name: str, shard: int) -> Iterator[pq.ParquetFile]:
        marker = self.read_marker(shard)
        if marker is None:
            raise UserError(f"shard {shard} of {self.folder} is missing or was made by another run; run again")
        xxh3 = marker.files[f"{name}/{shard_name(shard)}.parquet"].get("xxh3")
        if xxh3 is None:
            written = f"{self.table(name, shard)} was written by an earlier release of pdray"
            raise UserError(f"{written}, which kept no digest of it; run again, and it is made anew")
        with self._undamaged(name, shard) as path, path.open_whole_parquet(xxh3) as file:
            yield file

    @contextlib.contextmanager
    def _undamaged(self, name: str, shard: int) -> Iterator[StoragePath]:
        path = self.table(name, shard)
        try:
            yield path
        except (OSError, pa.ArrowException) as error:
            if not _is_damaged(path):
                raise
            # Size and footer may be right and a page wrong; without its marker the shard is made again.
            self.marker_path(shard).delete()
            raise UserError(f"{path} is damaged ({error}); run again, and this shard is made anew") from None

    def read_marker(self, shard: int) -> Marker | None:
        """The marker of a shard, None where it is absent, of other inputs, or not as it was written.

        Raises:
            OSError: the storage does not answer; taking that for an absent shard would do its work again.
        """
        try:
            content = self.marker_path(shard).read_json()
        except (FileNotFoundError, ValueError):
            return None
        # JSON may hold anything; what has its digest was written here.
        if not isinstance(content, dict) or content.pop("digest", None) != _digest(content):
            return None
        marker = Marker(**content)
        return marker if (marker.shard, marker.inputs) == (shard, self.inputs(shard)) else None

    def done(self) -> Markers:
        """Every shard that is whole, verified by size, and tables by rows and by the digest in the footer.

        Raises:
            OSError: the storage does not answer.
        """
        sizes = self.folder.sizes(recursive=True)

        def verified(shard: int) -> Marker | None:
            marker = self.read_marker(shard)
            return marker if marker is not None and self._is_whole(marker, sizes) else None

        # From the files, not from the number of shards, which a damaged manifest may say to be without end.
        named = (MARKER_FILE.fullmatch(name) for name in sizes)
        present = sorted(shard for one in named if one and (shard := int(one[1])) < self.num_shards)
        with ThreadPoolExecutor(VERIFY_THREADS) as pool:
            starts = range(0, len(present), VERIFIED_AT_ONCE)  # all of them at once would wait here as objects
            found = chain.from_iterable(pool.map(verified, present[at : at + VERIFIED_AT_ONCE]) for at in starts)
            return Markers(marker for marker in found if marker is not None)

    def _is_whole(self, marker: Marker, sizes: dict[str, int]) -> bool:
        for name, stated in marker.files.items():
            if sizes.get(name) != stated["bytes"]:
                return False
            if not name.endswith(".parquet"):
                continue
            try:
                with (self.folder / name).open_parquet() as file:
                    if file.metadata.num_rows != stated["rows"]:
                        return False
                    if (file.metadata.metadata or {}).get(INPUTS_KEY) != marker.inputs.encode():
                        return False
            except (OSError, pa.ArrowException):
                if not _is_damaged(self.folder / name):
                    raise
                return False
        return True

    def digest(self, markers: Mapping[int, Marker]) -> str:
        """sha256 over the markers of all shards, for the manifest of the stage."""
        hasher = hashlib.sha256()
        for shard in range(self.num_shards):
            marker = markers[shard]
            # Another release of pyarrow may write the same rows as other bytes.
            files = [(name, {key: stated[key] for key in ("bytes", "rows")}) for name, stated in marker.files.items()]
            hasher.update(repr((shard, marker.inputs, sorted(files, key=str), marker.ids_sum)).encode())
        return hasher.hexdigest()


@dataclass(frozen=True)
class RememberingFolder(ShardedFolder):
    """Shards whose columns are read once and kept in memory, for work on one shard that asks for some repeatedly."""

    found: dict[tuple[str, int, str], pa.ChunkedArray] = field(default_factory=dict)

    def read(self, name: str, shard: int, columns: list[str] | None = None) -> pa.Table:
        """See :meth:`ShardedFolder.read`; a whole table is not remembered."""
        if columns is None:
            return super().read(name, shard)
        if missing := [column for column in columns if (name, shard, column) not in self.found]:
            table = super().read(name, shard, missing)
            self.found.update({(name, shard, column): table[column] for column in missing})
        return pa.table({column: self.found[name, shard, column] for column in columns})


def remembering(shards: ShardedFolder) -> RememberingFolder:
    """The same shards; see :class:`RememberingFolder`."""
    return RememberingFolder(shards.folder, shards.fingerprint, shards.num_shards)


def content_of(tables: dict[str, pa.Table]) -> str:
    """Digest of the numbers in some tables, for :data:`CONTENT`; of texts and lists it knows nothing."""
    hasher = hashlib.sha256()
    for name, table in sorted(tables.items()):
        for column in table.column_names:
            if pa.types.is_floating(kind := table.schema.field(column).type) or pa.types.is_integer(kind):
                hasher.update(f"{name}/{column}".encode())
                hasher.update(table[column].to_numpy().tobytes())
    return hasher.hexdigest()[:32]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_damaged(path: StoragePath) -> bool:
    """Whether a table that cannot be read is itself to blame: its bytes come, or there are none."""
    try:
        path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Outcome:
    """How the attempt at one shard ended.

    Attributes:
        shard: its number.
        error: why it failed; None where it is done.
    """

    shard: int
    error: str | None = None


def attempted(shard: int, seconds: float, work: Callable[[int], None]) -> Outcome:
    """Do a shard's work in a worker; what went wrong comes back as its outcome, for the next round.

    Args:
        shard: its number.
        seconds: after which the worker is ended; see :func:`deadline`.
        work: reads and writes the shard.

    Raises:
        UserError: what another round would not mend.
    """
    try:
        with deadline(seconds):
            work(shard)
    except UserError:
        raise
    except Exception as error:
        return Outcome(shard, error_text(error))
    return Outcome(shard)


class ShardsFailedError(RuntimeError):
    """Shards that every round failed at.

    Attributes:
        failed: shard -> the last reason.
    """

    def __init__(self, failed: dict[int, str], rounds: int = ROUNDS) -> None:
        self.failed = failed
        shown = "; ".join(f"shard {shard}: {reason}" for shard, reason in list(failed.items())[:3])
        super().__init__(f"{len(failed)} shards failed {rounds} times: {shown}")


def run_rounds(
    shards: ShardedFolder,
    attempt: Callable[[Sequence[int]], Iterable[Outcome]],
    note: Callable[[str], None],
    rounds: int = ROUNDS,
) -> Markers:
    """Do what is missing, round after round, until every shard has its marker.

    Args:
        shards: where they are.
        attempt: runs some shards and reports each; a shard that it does not mention has failed without a word.
        note: tells the user what went wrong and is tried again.
        rounds: how often a shard is tried in this process.

    Returns:
        the markers of all shards.

    Raises:
        ShardsFailedError: a shard failed in every round.
        UserError: as raised by an attempt.
    """
    done = shards.done()
    reasons: dict[int, str] = {}
    for number in range(1, rounds + 1):
        missing = [shard for shard in range(shards.num_shards) if shard not in done]
        if not missing:
            return done
        if reasons:
            note(f"{len(missing)} shards are tried again ({number} of {rounds}): {next(iter(reasons.values()))}")
        reasons = dict.fromkeys(missing, LOST)
        with tracing.span("round", number=number, shards=len(missing)):
            for outcome in attempt(missing):
                if outcome.error is None:
                    reasons.pop(outcome.shard, None)
                else:
                    reasons[outcome.shard] = outcome.error
            done = shards.done()
            made = [shard for shard in missing if shard in done]
            tracing.tell(failed=len(missing) - len(made))
            metrics.count(metrics.FAILURES, len(missing) - len(made), what="shard")
            metrics.count(metrics.PAIRS, sum(done[shard].rows("pairs") for shard in made))
    missing = [shard for shard in range(shards.num_shards) if shard not in done]
    if missing:
        raise ShardsFailedError({shard: reasons.get(shard, "its files are not whole") for shard in missing}, rounds)
    return done


_ends: dict[object, float] = {}
_ends_lock = threading.Lock()


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer, whatever it hangs in; Ray sees a lost worker.

    The watchdog is a thread of the interpreter that needs no lock of Python's, so native code that never returns is
    ended as well; where each thread stood goes to the worker's log. Several threads may each have a deadline.
    """
    key = object()
    with _ends_lock:
        _ends[key] = time.monotonic() + seconds
        _watch_the_first()
    try:
        yield
    finally:
        with _ends_lock:
            del _ends[key]
            _watch_the_first()


def _watch_the_first() -> None:
    """A process has one watchdog: set it to the deadline that comes first."""
    faulthandler.cancel_dump_traceback_later()
    if _ends:
        left = max(0.001, min(_ends.values()) - time.monotonic())
        faulthandler.dump_traceback_later(left, exit=True, file=sys.__stderr__ or sys.stderr)


def error_text(error: BaseException) -> str:
    """A reason on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
