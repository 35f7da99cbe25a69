"""A disk that is really full: one sentence with the cure, the old file stays, and freed it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]

pytestmark = pytest.mark.skipif(
    subprocess.run([*UNSHARE, "true"], capture_output=True).returncode != 0,
    reason="this machine allows no user namespaces, in which a small disk is mounted without root",
)

PREPARE = """
import os, subprocess, sys
from pathlib import Path
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)

def fill():
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))

"""


def on_a_small_disk(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UNSHARE, sys.executable, "-c", PREPARE + code, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        cwd=Path(__file__).parents[2],
    )


WRITE = """
import pyarrow as pa
from pdray.errors import UserError
from pdray.storage import StoragePath

file = StoragePath(str(disk)) / "file"
table = pa.table({"text": [str(number) for number in range(20_000)]})
writes = {
    "bytes": lambda: file.write_bytes(bytes(10_000)),
    "json": lambda: file.write_json(["x" * 10_000]),
    "table": lambda: file.write_table(table),
    "new": lambda: (file.parent / "new").put_if_absent(bytes(10_000)),
}
file.write_bytes(b"old")
fill()
for name, write in writes.items():
    try:
        write()
        print(name, "was written")
    except UserError as error:
        print(name, error)
print(file.read_bytes().decode(), sorted(path.name for path in disk.iterdir()))
(disk / "ballast").unlink()
for write in writes.values():
    write()
"""


def test_storage_says_that_there_is_no_room_and_keeps_the_old_file(tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path, WRITE)
    assert done.returncode == 0, done.stderr
    said = [
        f"{name} no space is left for {tmp_path}/{file}; make room there and run again"
        for name, file in (("bytes", "file"), ("json", "file"), ("table", "file"), ("new", "new"))
    ]
    assert done.stdout.splitlines() == [*said, "old ['ballast', 'file']"]


LOGS = """
from pdray.console import logs_to_file
with logs_to_file(disk / "logs") as console:
    fill()
    print("a word of a library")
    console.say("a word to the user")
    raise ValueError("the reason")
"""


def test_a_log_without_room_hides_no_reason(tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path, LOGS)
    assert "a word to the user" in done.stdout
    assert done.stderr.splitlines()[-1] == "ValueError: the reason"
