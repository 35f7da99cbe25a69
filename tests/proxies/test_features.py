"""Features written for the texts of pairs come back to the right side of the right pair."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pdray.proxies.features import FeatureWriter, PairFeatures, RowsOfPairs, final_margins, joined, read_pairs
from pdray.rewards import RewardHead
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
    assert (rows.number(1, 100), rows.number(2, 100)) == (3, 0)
    shards = ShardedFolder(StoragePath(str(tmp_path)), "test", 3)
    for shard in range(3):
        own = rows(shard, 100)
        outputs = np.array([value_of(shard, row) for row in own], np.float32).reshape(-1, 2)
        facts = SimpleNamespace(num_tokens=own.astype(np.int32), truncated=np.zeros(len(own), bool))
        shards.write(shard, *FeatureWriter()(shard, own, outputs, facts)[:1], 0, {})  # type: ignore[arg-type]
    found = read_pairs(shards, PAIRS, 2)
    assert found.values[found.chosen].tolist() == [value_of(1, 7), value_of(0, 2), value_of(1, 3)]
    assert found.values[found.rejected].tolist() == [value_of(1, 3), value_of(0, 5), value_of(1, 9)]
    assert len(found.values) == 5  # a text of two pairs stands once
    assert found.length_difference.tolist() == [4, -3, -6]
    # Δr − ρΔlen with a head on the second feature
    assert final_margins(found, RewardHead(np.array([[0, 1]], np.float32), np.zeros(1, np.float32)), 0.5).tolist() == [
        2.0,
        -1.5,
        -3.0,
    ]
    with pytest.raises(AssertionError, match="lacks features"):
        read_pairs(shards, PAIRS.set_column(1, "chosen_row", pa.array([4, 2, 3], pa.int32())), 2)


def pair_features() -> PairFeatures:
    """Pairs (1, 5) and (3, 1), of which the text of value 1 stands in both."""
    values = np.array([[1, 4], [3, 4], [5, 4]], np.float32)
    return PairFeatures(values, np.array([0, 1]), np.array([2, 0]), np.array([10, 20]))


def test_moments_are_over_the_texts_of_both_sides() -> None:
    mean, spread = pair_features().moments()
    np.testing.assert_allclose(mean, [np.mean([1, 3, 5, 1]), 4.0])
    np.testing.assert_allclose(spread, [np.std([1, 3, 5, 1]), 1.0])


def test_pairs_that_are_taken_or_joined_keep_their_texts() -> None:
    pairs = pair_features()
    second = pairs.take(np.array([False, True]))
    assert second.values[:, 0].tolist() == [1, 3]
    both = joined(second, pairs)
    assert both.difference[:, 0].tolist() == [2, -4, 2]
    assert both.length_difference.tolist() == [20, 10, 20]


def test_pairs_with_a_text_that_could_not_be_read_are_not_finite() -> None:
    pairs = pair_features()
    pairs.values[2, 0] = np.nan
    assert pairs.finite().tolist() == [False, True]
