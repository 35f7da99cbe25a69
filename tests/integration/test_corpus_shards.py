"""The shards of a corpus on a real Ray: the same bytes in any order, made again where they are missing."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.config import CorpusConfig
from pdray.corpus import exchange, stage
from pdray.corpus import lines as corpus_lines
from pdray.errors import UserError
from tests.corpus.cases import files_of, lines, pairs_with_text, quarantined, rows, sharded
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")

SHARED = Path(__file__).parents[3] / "shared" / "data"
# sha256 of the sorted JSON lines [pair_id, aspect, prompt, chosen, rejected] before there were shards
GOLDEN = {
    "summeval_pairs": ("rated", 11757, "9847d7ba5a59042e652f7f35d7021658f5abf446be993ab40d4c496d035998c1"),
    "hh_rlhf_pairs": ("pairs", 4642, "7c8933ed048f1df2d5a560d9543b04c82c1bdf995e88d6269eb1a9b344651717"),
}


def data():
    """300 pairs, 40 of whose ids stand again in another prompt, and so in any shard, and 10 in their own."""
    again = [row | {"prompt": f"again {i}"} for i, row in enumerate(rows(40))]
    return rows(300) + again + rows(10, chosen="other")


def run(root, **config):
    result = run_stage(stage.STAGE, root, corpus=CorpusConfig(max_quarantined=0.2, texts_per_shard=100, **config))
    return result, root / "corpus-test"


@pytest.fixture(scope="module")
def finished(ray_local, tmp_path_factory):
    """A corpus whose rows went through Ray's shuffle, and its input."""
    root = tmp_path_factory.mktemp("finished")
    (root / "in.jsonl").write_bytes(lines(data()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "SMALL_BYTES", 0)
        result, folder = run(root, path=str(root / "in.jsonl"))
    return root, result, folder


@pytest.fixture
def copy(finished, tmp_path):
    """A finished corpus to damage."""
    root, result, _ = finished
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path, result, tmp_path / "corpus-test"


def again(root):
    return run(root, path=str(root / "in.jsonl"))


def test_every_id_is_in_one_shard_and_the_others_are_set_aside(finished):
    _, result, folder = finished
    assert result.output.num_shards > 5
    assert (result.rows_in, result.rows_out, result.quarantined) == (350, 300, 50)
    assert pairs_with_text(folder, result)["pair_id"].to_pylist() == sorted(f"p{i}" for i in range(300))
    assert [row["reason"] for row in quarantined(folder)] == ["duplicate pair_id"] * 50
    markers = sharded(folder, result.output.num_shards).done()
    assert sum(marker.facts["rows"] for marker in markers.values()) == 350
    assert result.output.texts == sum(marker.facts["texts"] for marker in markers.values())


@pytest.mark.parametrize("small_bytes", [0, exchange.SMALL_BYTES])
def test_other_files_and_blocks_give_the_same_bytes(finished, tmp_path, monkeypatch, small_bytes):
    monkeypatch.setattr(exchange, "SMALL_BYTES", small_bytes)
    monkeypatch.setattr(corpus_lines, "PIECE_BYTES", 1000)
    mixed = data()
    random.Random(0).shuffle(mixed)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(lines(mixed[:200]))
    pq.write_table(pa.Table.from_pylist(mixed[200:]), tmp_path / "in" / "b.parquet", row_group_size=7)
    pq.write_table(pa.Table.from_pylist(mixed).slice(0, 0), tmp_path / "in" / "c.parquet")
    _, folder = run(tmp_path, path=str(tmp_path / "in"))
    assert files_of(folder) == files_of(finished[2])


@pytest.mark.slow
def test_rays_shuffle_through_files_gives_the_same_bytes(finished, tmp_path, monkeypatch):
    """``RAY_DATA_ENABLE_DISK_SHUFFLE=1``: for corpora whose shuffle the driver does not hold."""
    from ray.data import DataContext
    from ray.data._internal.execution.operators.shuffle_operators import disk_shuffle_map_operator as through_files

    operator, used = through_files.DiskHashShuffleMapOp, []
    made = operator.__init__

    def counted(*args, **kwargs):
        used.append(1)
        made(*args, **kwargs)

    monkeypatch.setattr(operator, "__init__", counted)
    monkeypatch.setattr(exchange, "SMALL_BYTES", 0)
    (tmp_path / "in.jsonl").write_bytes(lines(data()))
    with DataContext.current(DataContext.get_current().copy()):
        DataContext.get_current().use_disk_based_hash_shuffle = True
        _, folder = again(tmp_path)
    assert used
    assert files_of(folder) == files_of(finished[2])


def test_missing_and_damaged_shards_are_made_again_with_the_same_bytes_and_no_others(copy):
    root, result, folder = copy
    wanted = files_of(folder)
    (folder / "shards" / "shard-00000.json").unlink()
    (folder / "texts" / "shard-00001.parquet").unlink()
    damaged = folder / "pairs" / "shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    shutil.copy(folder / "texts" / "shard-00005.parquet", folder / "texts" / "shard-00003.parquet")
    for name in ("texts", "pairs"):
        (folder / name / ".shard-00000.parquet.0123").write_text("left by a kill")
    untouched = {path: path.stat().st_mtime_ns for path in folder.rglob("shard-00004.*")}
    second, _ = again(root)
    found = {name: digest for name, digest in files_of(folder).items() if "/." not in name}
    assert found == wanted
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("shard-00004.*")} == untouched
    assert second == result


def test_a_whole_corpus_is_not_read_again(copy, monkeypatch):
    root, result, _ = copy
    monkeypatch.setattr(stage, "check_rows", None)
    assert again(root)[0] == result


def test_an_input_that_changed_meanwhile_is_refused(copy):
    root, _, folder = copy
    (folder / "shards" / "shard-00000.json").unlink()
    (root / "in.jsonl").write_bytes(lines(rows(300)))
    with pytest.raises(UserError, match=r"input has 300 rows and had 350 when this corpus was begun; delete"):
        again(root)


def test_a_corpus_of_one_prompt_is_split_and_right(tmp_path):
    data = [row | {"chosen": f"c{i}", "rejected": f"r{i}"} for i, row in enumerate(rows(400, prompt="q"))]
    (tmp_path / "in.jsonl").write_bytes(lines(data + data[:20]))
    result, folder = again(tmp_path)
    assert result.output.num_shards >= 8
    assert (result.rows_out, result.quarantined, result.output.texts) == (400, 20, 800)
    found = pairs_with_text(folder, result).select(["pair_id", "prompt", "chosen", "rejected", "aspect"]).to_pylist()
    assert found == sorted(data, key=lambda row: row["pair_id"])
    sizes = [len(sharded(folder, result.output.num_shards).read("pairs", i)) for i in range(result.output.num_shards)]
    assert max(sizes) < 100


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this checkout")
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_real_corpora_have_the_pairs_that_they_always_had(tmp_path, name):
    kind, count, digest = GOLDEN[name]
    config = CorpusConfig(path=str(SHARED / f"{name}.parquet"), kind=kind)
    result = run_stage(stage.STAGE, tmp_path, corpus=config)
    table = pairs_with_text(tmp_path / "corpus-test", result)
    columns = [table[column].to_pylist() for column in ("pair_id", "aspect", "prompt", "chosen", "rejected")]
    found = sorted(json.dumps(list(values)) for values in zip(*columns, strict=True))
    assert len(found) == count
    assert hashlib.sha256("\n".join(found).encode()).hexdigest() == digest
