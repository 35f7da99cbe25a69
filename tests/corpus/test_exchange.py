"""How much a task of the corpus holds: parts of blocks, sizes of a shuffle, prompts that stay whole."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pdray.corpus import check
from pdray.corpus.check import PROMPT_KEY, check_responses, pair_responses
from pdray.corpus.exchange import (
    PARTITION_BYTES,
    PIECE_BYTES,
    SMALL_BYTES,
    gathered,
    map_rows,
    num_partitions,
    partition_bytes,
    parts,
)
from pdray.corpus.lines import ROWS_PER_BLOCK
from pdray.corpus.rows import RowRules
from pdray.progress import Counted

COLUMNS = {name: name for name in ("prompt", "response", "overall", "source")}
RULES = RowRules(COLUMNS, ratings={"a": ("a",), "b": ("b",)})


@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_BLOCK, ROWS_PER_BLOCK + 1, 3 * ROWS_PER_BLOCK - 1])
def test_parts_are_all_rows_once_and_never_none(rows):
    found = list(parts(pa.table({"row": np.arange(rows)})))
    assert len(found) == max(1, math.ceil(rows / ROWS_PER_BLOCK))
    assert max(map(len, found)) <= ROWS_PER_BLOCK
    assert pa.concat_tables(found)["row"].to_pylist() == list(range(rows))


@pytest.mark.parametrize("cpus", [2, 64, 10_000])
@pytest.mark.parametrize("num_bytes", [SMALL_BYTES, 2**30, 2**34, 2**37, 2**40])
def test_pieces_of_a_shuffle_stay_out_of_the_drivers_heap(num_bytes, cpus):
    size, partitions = partition_bytes(num_bytes), num_partitions(num_bytes, cpus)
    assert size / partitions > 0.9 * PIECE_BYTES, "what one task gives to one partition"
    assert num_bytes / partitions <= size
    assert num_bytes / size * partitions <= 1.1 * num_bytes / PIECE_BYTES + partitions, "objects that the driver names"
    assert size == PARTITION_BYTES or num_bytes > 2**34


def test_a_small_corpus_is_one_partition():
    assert num_partitions(SMALL_BYTES - 1, 64) == 1
    assert num_partitions(SMALL_BYTES, 1) == 2


def test_rows_are_mapped_in_parts_whatever_the_block_and_after_another_map(ray_local):
    import ray.data

    def sizes(rows):
        return pa.table({"rows": [len(rows)]})

    block = ray.data.from_arrow(pa.table({"row": np.arange(2 * ROWS_PER_BLOCK + 5)}))
    assert [row["rows"] for row in map_rows(block, sizes).take_all()] == [ROWS_PER_BLOCK, ROWS_PER_BLOCK, 5]
    fused = map_rows(map_rows(block, lambda rows: rows), sizes)
    assert [row["rows"] for row in fused.take_all()] == [ROWS_PER_BLOCK, ROWS_PER_BLOCK, 5]


def test_a_shuffle_splits_no_more_at_once_than_it_brings_together(ray_local):
    import ray.data

    before = ray.data.DataContext.get_current().shuffle_input_batch_bytes
    data = ray.data.from_arrow(pa.table({"row": np.arange(100), "text": ["x" * 1000] * 100}))
    found = gathered(data, "row", 3, 2**40)
    assert found.context.shuffle_input_batch_bytes == partition_bytes(2**40) == 2**30
    assert gathered(data, "row", 3, 2**33).context.shuffle_input_batch_bytes == PARTITION_BYTES
    assert sorted(row["row"] for row in found.take_all()) == list(range(100))
    assert ray.data.DataContext.get_current().shuffle_input_batch_bytes == before, "of other data sets nothing changes"


@pytest.mark.parametrize("rows_per_part", [1, 3, 7, 1000])
def test_responses_to_a_prompt_stay_together_in_whatever_parts(monkeypatch, rows_per_part):
    raw = [{"prompt": f"p{i % 11}", "response": f"r{i}", "a": i, "b": -i} for i in range(50)]
    checked = check_responses(pa.Table.from_pylist([*raw, {"prompt": None}]), RULES, Counted())
    monkeypatch.setattr(check, "ROWS_PER_BLOCK", 1000)
    (whole,) = pair_responses(checked, RULES)
    monkeypatch.setattr(check, "ROWS_PER_BLOCK", rows_per_part)
    found = list(pair_responses(checked, RULES))
    assert pa.concat_tables(found).sort_by("pair_id") == whole.sort_by("pair_id")
    assert len(whole) == sum(n * (n - 1) // 2 for n in [5] * 6 + [4] * 5), "every two responses"
    prompts = [set(part["prompt"].to_pylist()) for part in found]
    assert sum(map(len, prompts)) == 11, "no prompt is in two parts"
    assert len(found) == {1: 11, 3: 11, 7: 6, 1000: 1}[rows_per_part]


def test_a_block_without_responses_gives_a_part_of_the_schema():
    checked = check_responses(pa.Table.from_pylist([{"prompt": None}]), RULES, Counted())
    (found,) = pair_responses(checked, RULES)
    assert not len(found)
    assert found.schema == check.checked_schema(RULES)
    assert PROMPT_KEY not in found.column_names
