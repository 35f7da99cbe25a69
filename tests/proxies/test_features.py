"""Features written for the texts of pairs come back to the right side of the right pair."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pdray.proxies.features import FeatureWriter, PairFeatures, RowsOfPairs, final_margins, read_pairs
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath

PAIRS = pa.table(
    {
        "shard": pa.array([1, 0, 1], pa.int32()),
        "chosen_row": pa.array([7, 2, 3], pa.int32()),
        "rejected_row": pa.array([3, 5, 9], pa.int32()),
    }
)


def value_of(shard: int, row: int) -> list[float]:
    return [100.0 * shard + row, float(row)]


def test_each_pair_gets_its_own_features(tmp_path: Path) -> None:
    rows = RowsOfPairs.of([PAIRS.slice(0, 2), PAIRS.slice(2)])
    assert rows.count == 5
    assert rows(1, 100).tolist() == [3, 7, 9]
    assert rows(2, 100).tolist() == []
    shards = ShardedFolder(StoragePath(str(tmp_path)), "test", 3)
    for shard in range(3):
        own = rows(shard, 100)
        outputs = np.array([value_of(shard, row) for row in own], np.float32).reshape(-1, 2)
        facts = SimpleNamespace(num_tokens=own.astype(np.int32), truncated=np.zeros(len(own), bool))
        shards.write(shard, *FeatureWriter(0.5)(shard, own, 2 * outputs, facts)[:1], 0, {})  # type: ignore[arg-type]
    found = read_pairs(shards, PAIRS, 2)
    assert found.chosen.tolist() == [value_of(1, 7), value_of(0, 2), value_of(1, 3)]
    assert found.rejected.tolist() == [value_of(1, 3), value_of(0, 5), value_of(1, 9)]
    assert found.length_difference.tolist() == [4, -3, -6]
    # Δr − ρΔlen with a head on the second feature
    assert final_margins(found, np.array([0.0, 1.0]), 0.5).tolist() == [2.0, -1.5, -3.0]
    with pytest.raises(AssertionError, match="lacks features"):
        read_pairs(shards, PAIRS.set_column(1, "chosen_row", pa.array([4, 2, 3], pa.int32())), 2)


def test_spread_is_over_the_texts_of_both_sides() -> None:
    features = PairFeatures(np.array([[1, 5], [3, 5]], np.float32), np.array([[5, 5], [7, 5]], np.float32), np.zeros(2))
    np.testing.assert_allclose(features.spread(), [np.std([1, 3, 5, 7]), 1.0])
