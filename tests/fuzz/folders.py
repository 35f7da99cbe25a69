"""A finished run folder and what may be harmed in it."""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pdray.lease import LEASE, Lease
from pdray.storage import StoragePath
from tests.fuzz.damage import PLACES, Damage, damages, remove

LARGEST_PID = 2**22
# Harmed more often than the many files of models and logs: what commands read.
OFTEN = re.compile(
    r"run\.json|lease\.json|.*/(manifest|attempts|plan)\.json|.*/shards/.*|[^/]*/(texts|pairs|kept|features|ranked)/.*"
)
# A stage without one of these is not complete, whatever its manifest says.
NEEDED = re.compile(
    r"(?P<stage>[a-z]+)-[0-9a-f]{8}/(manifest\.json|shards/.*|(texts|pairs|kept|features|ranked)/.*|(model|policy)[^/]*/(.*\.safetensors|config\.json))"
)


def copy_finished(finished: Path, target: Path) -> None:
    """A copy of a finished run, with the lease of a driver that was killed."""
    shutil.copytree(finished, target, ignore=shutil.ignore_patterns("logs"))
    (target / LEASE).write_text(dead_lease())


@functools.cache
def dead_lease() -> str:
    """The lease of a process of this machine that has ended."""
    with tempfile.TemporaryDirectory() as folder, Lease(StoragePath(folder)).hold():
        held: dict[str, Any] = json.loads((Path(folder) / LEASE).read_text())
    return json.dumps(held | {"pid": LARGEST_PID + 1})


def harms(run: Path) -> st.SearchStrategy[list[Damage]]:
    """One to three damages to a copy of a finished run."""
    files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    files.append(LEASE)
    often = [name for name in files if OFTEN.fullmatch(name)]
    folders = [*sorted({str(Path(name).parent) for name in files} - {"."}), "logs"]
    places = st.builds(Damage, st.sampled_from(folders), st.sampled_from(PLACES))
    one = st.one_of(damages(often), damages(often), damages(files), places)
    return st.lists(one, min_size=1, max_size=3)


def damaged_copy(finished: Path, run: Path, data: st.DataObject) -> list[Damage]:
    """Put a copy of a finished run in the place of whatever stands there, and damage it as drawn."""
    remove(run)
    copy_finished(finished, run)
    harm = data.draw(harms(finished))
    for one in harm:
        one.apply(run)
    return harm


def lost_stages(harm: list[Damage], run: Path, finished: Path) -> set[str]:
    """Stages that lack something that they need, as far as that can be told by a look at files and sizes."""
    lost = set()
    for path in finished.rglob("*"):
        name = str(path.relative_to(finished))
        found = NEEDED.fullmatch(name)
        if not found or not path.is_file():
            continue
        here = run / name
        if not here.is_file() or here.is_symlink() or here.stat().st_size < path.stat().st_size // 2:
            lost.add(found["stage"])
    return lost
