"""Order, split and counting of the kept pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdray.alignment import data
from pdray.errors import UserError
from tests.dpo_case import alignment, write_kept

POLICY = Path("/models/policy")


def test_order_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    once = data.read_kept(write_kept(tmp_path / "a", 20))
    assert data.read_kept(write_kept(tmp_path / "b", 20, split=0.75)).equals(once)
    assert once["pair_id"].to_pylist() == [f"pair-{i:04}" for i in range(20)]
    assert once.column_names == data.COLUMNS


def test_strings_and_messages_are_told_apart(tmp_path: Path) -> None:
    assert not data.is_chat(data.read_kept(write_kept(tmp_path / "text", 6)))
    assert data.is_chat(data.read_kept(write_kept(tmp_path / "chat", 6, chat=True)))


def test_a_shard_that_keeps_nothing_is_no_harm_and_all_of_them_are(tmp_path: Path) -> None:
    assert len(data.read_kept(write_kept(tmp_path / "some", 6, split=0))) == 6
    with pytest.raises(UserError, match=r"no kept pair.*raise selection\.budget"):
        data.read_kept(write_kept(tmp_path / "none", 0))


def test_a_damaged_shard_is_an_error_and_not_a_smaller_training_set(tmp_path: Path) -> None:
    shards = write_kept(tmp_path, 20)
    shards.table("kept", 1).local.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.parquet is damaged"):
        data.read_kept(shards)


@pytest.mark.parametrize(
    ("pairs", "share", "batch_size", "expected"),
    [(100, 0.05, 1, 4), (100, 0.1, 4, 8), (100, 0.05, 4, 4), (100, 0.0, 1, 0), (30, 0.05, 1, 0), (100, 0.03, 8, 2)],
)
def test_held_out_fills_whole_batches_on_two_workers(pairs: int, share: float, batch_size: int, expected: int) -> None:
    settings = alignment(POLICY, held_out=share, batch_size=batch_size)
    count = data.num_held_out(pairs, settings)
    assert count == expected
    assert count % (2 * data.eval_batch_size(count, settings)) == 0


def test_split_is_seeded_and_follows_the_pair() -> None:
    settings = alignment(POLICY, held_out=0.25, gradient_accumulation=1)
    ids = [f"pair-{i}" for i in range(40)]
    train, held_out = data.split(ids, settings, seed=1)
    assert (len(train), len(held_out)) == (30, 10)
    assert sorted(train + held_out) == list(range(40))
    assert data.split(ids, settings, seed=1) == (train, held_out)
    assert data.split(ids, settings, seed=2)[1] != held_out
    backwards = data.split(ids[::-1], settings, seed=1)[1]
    assert {ids[::-1][i] for i in backwards} == {ids[i] for i in held_out}


def test_too_few_pairs_for_one_step() -> None:
    settings = alignment(POLICY, held_out=0.0, batch_size=2, gradient_accumulation=3)
    data.check_enough(12, settings)
    with pytest.raises(
        UserError, match=r"11 pairs .* takes 12 \(num_workers 2 × batch_size 2 × gradient_accumulation 3\)"
    ):
        data.split([f"{i}" for i in range(11)], settings, seed=0)


def test_truncated_counts_the_longer_response() -> None:
    prepared = {
        "prompt_ids": [[1] * 4, [1] * 4, [1] * 4],
        "chosen_ids": [[1] * 6, [1] * 7, [1] * 2],
        "rejected_ids": [[1] * 2, [1] * 2, [1] * 7],
    }
    assert data.num_truncated(prepared, 10) == 2
