"""A file is whole or absent, on a disk and on object storage, whatever its name and whoever dies."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from pdray.errors import UserError
from pdray.filesystems import clean_partials, read_ahead
from pdray.storage import StoragePath, copy_folder, node_copy
from tests.s3 import FakeFaults, S3Server

TABLE = pa.table({"a": list(range(1000)), "b": [f"text {i}" for i in range(1000)]})
NAMES = ["plain", "with space", "100%41", "a#b", "what?", "a&b=c+d", "Größe 漢字 🙂", "..hidden"]

# A writer that has written a part and then waits to be killed.
HALF = """
import sys, time
from pdray.storage import StoragePath
with StoragePath(sys.argv[1])._output() as stream:
    stream.write(b"half")
    stream.flush()
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", NAMES)
def test_any_name_comes_back(folder: StoragePath, name: str) -> None:
    path = folder / name
    path.write_bytes(b"1")
    assert (path.name, path.parent.uri) == (name, folder.uri)
    assert folder.sizes() == {name: 1}
    assert (path / "below").path == f"{path.path}/below"
    assert pickle.loads(pickle.dumps(path)).read_bytes() == b"1"  # noqa: S301
    path.delete()
    assert not path.exists()


def test_a_uri_is_decoded_as_pyarrow_does_it(s3_server: S3Server) -> None:
    root = StoragePath(s3_server.uri("decoded/my%20run"))
    assert (root.path, root.name) == ("bucket/decoded/my run", "my run")
    assert root.parent.path == "bucket/decoded"


def test_written_read_listed_deleted(folder: StoragePath) -> None:
    assert not folder.exists()
    assert (folder.sizes(), folder.folders()) == ({}, [])
    (folder / "a" / "one").write_bytes(b"1")
    (folder / "a" / "b" / "two").write_bytes(b"22")
    (folder / "three").write_json({"b": [1], "a": "ü"})
    assert folder.sizes() == {"three": len((folder / "three").read_bytes())}
    assert {name: size for name, size in folder.sizes(recursive=True).items() if name != "three"} == {
        "a/one": 1,
        "a/b/two": 2,
    }
    assert folder.folders() == ["a"]
    assert (folder / "three").read_json() == {"a": "ü", "b": [1]}
    (folder / "a" / "one").write_bytes(b"111")
    assert (folder / "a" / "one").read_bytes() == b"111"
    assert (folder / "a" / "one").rename("uno").read_bytes() == b"111"
    assert sorted((folder / "a").sizes()) == ["uno"]
    (folder / "a").delete()
    (folder / "a").delete()
    assert list(folder.sizes(recursive=True)) == ["three"]


def test_what_is_not_there_is_not_found(folder: StoragePath) -> None:
    for read in (folder.read_bytes, (folder / "a").read_json, (folder / "a.parquet").read_table):
        with pytest.raises(FileNotFoundError):
            read()


@pytest.mark.parametrize("size", [0, 10, 30_000_000])
def test_bytes_of_any_size(folder: StoragePath, size: int) -> None:
    data = os.urandom(1000) * (size // 1000) if size >= 1000 else b"x" * size
    (folder / "a").write_bytes(data)
    assert (folder / "a").read_bytes() == data
    assert folder.sizes() == {"a": len(data)}


def test_json_refuses_what_no_other_reader_takes(folder: StoragePath) -> None:
    (folder / "a").write_json({"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        (folder / "a").write_json({"a": float("nan")})
    assert (folder / "a").read_json() == {"a": 1}


@pytest.mark.parametrize("depth", [200, 900, 100_000])
@pytest.mark.parametrize("ends", ["[]", ('{"a":', "}")])
def test_json_that_no_writer_of_pdrays_nests_so_deep(tmp_path: Path, depth: int, ends: tuple[str, str]) -> None:
    (tmp_path / "a").write_text(ends[0] * depth + "1" + ends[1] * depth)
    with pytest.raises(ValueError, match="nested too deeply"):
        StoragePath(str(tmp_path / "a")).read_json()


def test_a_table_keeps_its_metadata_and_says_its_bytes(folder: StoragePath) -> None:
    table = TABLE.replace_schema_metadata({"who": "me"})
    written = (folder / "t.parquet").write_table(table)
    assert folder.sizes() == {"t.parquet": written.bytes}
    assert written.xxh3 == xxhash.xxh3_64_intdigest((folder / "t.parquet").read_bytes())
    assert (folder / "t.parquet").read_table().equals(table, check_metadata=True)
    assert (folder / "t.parquet").read_table(["b"]).column_names == ["b"]


def test_floats_have_no_dictionary_and_token_ids_have_one(folder: StoragePath) -> None:
    tables = {"rewards": pa.table({"x": [0.5, 0.25]}), "tokens": pa.table({"x": [[1, 2], [1]]})}
    found = {}
    for name, table in tables.items():
        (folder / name).write_table(table)
        with (folder / name).open_parquet() as file:
            found[name] = file.metadata.row_group(0).column(0).has_dictionary_page
    assert found == {"rewards": False, "tokens": True}


def test_a_flipped_bit_is_an_error(folder: StoragePath) -> None:
    path = folder / "t.parquet"
    path.write_table(TABLE)
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(OSError, match="CRC"):
        path.read_table()


def test_a_whole_file_is_one_whose_every_byte_was_written(folder: StoragePath) -> None:
    path = folder / "t.parquet"
    written = path.write_table(TABLE)
    with path.open_whole_parquet(written.xxh3) as file:
        assert file.read().equals(TABLE)
    whole = path.read_bytes()
    for place in range(0, len(whole), 997):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(pa.ArrowInvalid, match="not those that were written"), path.open_whole_parquet(written.xxh3):
            pass
    for cut in (whole[:-1], b""):
        path.write_bytes(cut)
        with pytest.raises((OSError, pa.ArrowInvalid)), path.open_whole_parquet(written.xxh3):
            pass
    path.delete()
    with pytest.raises(FileNotFoundError), path.open_whole_parquet(written.xxh3):
        pass


def test_a_writer_that_fails_leaves_the_old_file(folder: StoragePath) -> None:
    (folder / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError), (folder / "a")._output() as stream:
        stream.write(b"new")
        raise RuntimeError("in the middle")
    assert (folder / "a").read_bytes() == b"old"
    assert list(folder.sizes()) == ["a"]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = StoragePath(str(tmp_path / "a"))
    path.write_bytes(b"old")
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", HALF, path.uri], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    (left,) = [name for name in os.listdir(tmp_path) if name != "a"]
    (tmp_path / ".a.notours12345").write_text("")
    (tmp_path / ".hidden").write_text("")
    assert clean_partials(tmp_path, before - 1) == 0, "a younger file may have a living writer"
    assert clean_partials(tmp_path, time.time() + 1) == 1
    assert not (tmp_path / left).exists()
    assert sorted(os.listdir(tmp_path)) == [".a.notours12345", ".hidden", "a"]


def test_new_files_are_their_owners_alone(tmp_path: Path) -> None:
    root = StoragePath(str(tmp_path))
    (root / "bytes").write_bytes(b"")
    (root / "table").write_table(TABLE)
    (root / "first").put_if_absent(b"")
    assert {oct((tmp_path / name).stat().st_mode)[-3:] for name in ("bytes", "table", "first")} == {"600"}


def test_put_if_absent_keeps_the_first(folder: StoragePath) -> None:
    assert (folder / "a").put_if_absent(b"first")
    assert not (folder / "a").put_if_absent(b"second")
    assert (folder / "a").read_bytes() == b"first"
    assert list(folder.sizes()) == ["a"]


def test_of_many_writers_one_is_first(tmp_path: Path) -> None:
    for attempt in range(20):
        path, won = StoragePath(str(tmp_path / str(attempt))), []
        start = threading.Barrier(8)

        def write(name: int, path: StoragePath = path, won: list[int] = won, start: threading.Barrier = start) -> None:
            start.wait()
            if path.put_if_absent(str(name).encode()):
                won.append(name)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [str(name).encode() for name in won] == [path.read_bytes()]


def test_of_many_processes_one_is_first(tmp_path: Path) -> None:
    code = "import sys; from pdray.storage import StoragePath as P; sys.exit(not P(sys.argv[1]).put_if_absent(b'x'))"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")]) for _ in range(4)]
    assert sorted(writer.wait() for writer in writers) == [0, 1, 1, 1]


def test_put_if_absent_on_a_mount_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert StoragePath(str(tmp_path / "a")).put_if_absent(b"first")
    assert not StoragePath(str(tmp_path / "a")).put_if_absent(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_an_error_and_never_waits(tmp_path: Path, make: object) -> None:
    make(tmp_path / "a")  # type: ignore[operator]
    path = StoragePath(str(tmp_path / "a"))
    for read in (path.read_bytes, path.read_json, path.read_table):
        with pytest.raises(OSError, match="not a file"):
            read()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None])
def test_nothing_to_read_ahead_is_no_error_and_never_waits(tmp_path: Path, make: object) -> None:
    make(tmp_path / "a")  # type: ignore[operator]
    read_ahead(str(tmp_path / "a"))


def pages_in_cache(path: Path) -> list[bool]:
    """Of each page of a file, whether the kernel holds it in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        numbers = np.frombuffer(mapped, np.uint8)
        found = ctypes.create_string_buffer(-(-len(mapped) // mmap.PAGESIZE))
        place, size = ctypes.c_void_p(numbers.ctypes.data), ctypes.c_size_t(len(mapped))
        assert ctypes.CDLL(None).mincore(place, size, found) == 0
        del numbers  # a map that something looks at cannot be closed
    return [bool(page & 1) for page in found.raw]


def test_what_is_read_ahead_comes_into_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if all(pages_in_cache(path)):
        pytest.skip("this file system keeps all files in memory")
    read_ahead(str(path))
    until = time.monotonic() + 30
    while not all(pages_in_cache(path)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_folder_where_a_file_belongs_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="should be a file, but a folder stands there"):
        StoragePath(str(tmp_path / "folder")).write_bytes(b"")
    assert os.listdir(tmp_path / "folder") == []
    for write in (
        StoragePath(str(tmp_path / "file")).make_folder,
        lambda: StoragePath(str(tmp_path / "file" / "a")).write_bytes(b""),
    ):
        with pytest.raises(UserError, match="should be a folder, but a file stands there"):
            write()


def test_only_a_local_path_is_one(s3_server: S3Server, tmp_path: Path) -> None:
    assert StoragePath(str(tmp_path)).local == tmp_path
    with pytest.raises(UserError, match="is on object storage, where only a mounted path works"):
        _ = StoragePath(s3_server.uri("a")).local


@pytest.mark.parametrize("uri", ["ftp://host/a", "s3://bucket/a?colour=red", "nonsense://a"])
def test_a_uri_that_nothing_opens_is_named(uri: str) -> None:
    with pytest.raises(UserError, match=r"cannot be opened .*; use a local path, s3"):
        (StoragePath(uri)).exists()


def test_a_bucket_that_does_not_exist(s3_server: S3Server) -> None:
    with pytest.raises(UserError, match=r"the bucket of s3://nowhere/a.* does not exist; create it"):
        StoragePath(s3_server.uri("a", bucket="nowhere")).write_bytes(b"")


@pytest.mark.parametrize(("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")])
def test_keys_that_are_refused(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    # Another region is another connection: those of the right keys are kept.
    path = StoragePath(s3_server.uri(f"keys/{value}").replace("us-east-1", f"us-{value}"))
    for use in (lambda: path.write_bytes(b""), path.sizes, path.read_bytes, path.exists, path.folders):
        with pytest.raises(UserError, match=r"refuses the credentials of this process .*; set AWS_ACCESS_KEY_ID"):
            use()


def test_a_storage_that_refuses_now_and_then(s3_server: S3Server) -> None:
    """Bursts of four refusals, of which only waits that grow come out."""
    faults = FakeFaults(s3_server.endpoint, every=10, burst=4)
    with faults.proxy() as proxy:
        folder = StoragePath(proxy.uri("faults"))
        for number in range(3):
            (folder / f"{number}.parquet").write_table(TABLE)
            (folder / f"{number}.json").write_json({"number": number})
        assert len(folder.sizes()) == 6
        assert all((folder / f"{number}.parquet").read_table().equals(TABLE) for number in range(3))
        assert [(folder / f"{number}.json").read_json()["number"] for number in range(3)] == [0, 1, 2]
        folder.delete()
        assert folder.sizes() == {}
    assert faults.refused >= 8


def test_a_storage_that_refuses_for_ever_is_given_up(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdray.filesystems.S3_ATTEMPTS", 3)
    faults = FakeFaults(s3_server.endpoint, every=1)
    with faults.proxy() as proxy, pytest.raises(OSError, match=r"SLOW_DOWN|503|slow down"):
        StoragePath(proxy.uri("faults/a")).read_bytes()
    assert faults.seen == 3


def test_a_slow_storage(s3_server: S3Server) -> None:
    with FakeFaults(s3_server.endpoint, seconds=4).proxy() as proxy:  # above the default time limit of 3
        path = StoragePath(proxy.uri("slow/a"))
        path.write_bytes(b"late")
        assert path.read_bytes() == b"late"


def test_folders_are_copied_whole(folder: StoragePath, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a b").mkdir(parents=True)
    (source / "one").write_text("1")
    (source / "a b" / "two%").write_text("22")
    copy_folder(source, folder)
    assert folder.sizes(recursive=True) == {"one": 1, "a b/two%": 2}


def test_a_model_on_object_storage_is_copied_once_per_content(
    folder: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "weights" / "a.safetensors").write_bytes(b"1")
    copy = node_copy(folder, "0" * 64)
    assert (copy / "weights" / "a.safetensors").read_bytes() == b"1"
    (folder / "config.json").write_bytes(b"{ }")
    assert node_copy(folder, "0" * 64) == copy
    if folder.is_local:
        assert copy == folder.local
        return
    assert (copy / "config.json").read_text() == "{}"
    assert (node_copy(folder, "1" * 64) / "config.json").read_text() == "{ }"
    assert len(list(copy.parent.iterdir())) == 2, "nothing else is left behind"
    assert oct(copy.parent.stat().st_mode)[-3:] == "700"


def test_a_place_for_copies_that_is_someone_elses_is_refused(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"pdray-models-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="belongs to another user; remove it or set TMPDIR"):
        node_copy(StoragePath(s3_server.uri("models/a")), "0" * 64)


def test_names_that_are_none_of_ours_hide_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("xy")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff")).touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).mkdir()
    (tmp_path / "circle").symlink_to("circle")
    for name in ("up", "up too", "up as well"):  # ways through them double with every level
        (tmp_path / "a" / name).symlink_to("..")
    os.mkfifo(tmp_path / "pipe")
    root = StoragePath(str(tmp_path))
    assert root.sizes(recursive=True) == {"a/b": 2}
    assert (root.sizes(), root.folders()) == ({}, ["a"])
    assert [(root / name).sizes(recursive=True) for name in ("circle", "pipe", "nowhere")] == [{}, {}, {}]
