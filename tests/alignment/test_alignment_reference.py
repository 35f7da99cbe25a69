"""What is known of the reference: looked up by tokens, computed once, whole or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from pdray.alignment import reference
from pdray.alignment.reference import ReferenceStore, complete, look_up
from pdray.errors import UserError
from pdray.storage import StoragePath

LENGTHS = np.array([5, 9, 7, 7, 3], np.int32)
KEYS = np.array([50, 10, 2**64 - 1, 10, 30], np.uint64)


class FakePolicy:
    """Stands in for the forward pass: a pair's log-probabilities follow from its position."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        self.calls.append(positions.tolist())
        return np.stack([-1.0 - positions, -2.0 - positions], axis=1).astype(np.float32)


def _store(folder: Path) -> ReferenceStore:
    return ReferenceStore(StoragePath(str(folder / "reference")))


def _complete(store: ReferenceStore, policy: FakePolicy, keys: np.ndarray = KEYS, keep: bool = True) -> np.ndarray:
    lengths = np.resize(LENGTHS, len(keys))
    return complete(keys, lengths, store, store.sound_parts(), None, 2, policy, keep, lambda done, total: None)


def test_each_distinct_pair_is_computed_once_and_the_longest_first(tmp_path: Path) -> None:
    policy = FakePolicy()
    found = _complete(_store(tmp_path), policy)
    assert policy.calls == [[1, 2, 0, 4]], "position 3 has the tokens of position 1"
    assert found.tolist() == [[-1, -2], [-2, -3], [-3, -4], [-2, -3], [-5, -6]]


def test_another_budget_computes_only_what_it_adds(tmp_path: Path) -> None:
    store, policy = _store(tmp_path), FakePolicy()
    _complete(store, policy, KEYS[:3])
    larger = np.array([7, *KEYS], np.uint64)
    found = _complete(store, policy, larger)
    assert policy.calls == [[1, 2, 0], [0, 5]]
    assert found[1:4].tolist() == [[-1, -2], [-2, -3], [-3, -4]]
    assert np.isfinite(found).all()
    _complete(store, policy, KEYS[1:])
    assert len(policy.calls) == 2, "a smaller one computes nothing"


def test_only_one_worker_keeps_what_all_computed(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _complete(store, FakePolicy(), keep=False)
    assert store.sound_parts() == []


def test_a_killed_pass_loses_the_chunk_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MIN_BATCHES", 1)
    monkeypatch.setattr(reference, "MAX_PARTS", 100)
    store, policy = _store(tmp_path), FakePolicy()
    answers = iter([None, KeyboardInterrupt()])

    def dies(positions: np.ndarray) -> np.ndarray:
        if error := next(answers):
            raise error
        return policy(positions)

    with pytest.raises(KeyboardInterrupt):
        complete(KEYS, LENGTHS, store, [], None, 2, dies, True, lambda done, total: None)
    assert policy.calls == [[1, 0]]
    _complete(store, policy)
    assert policy.calls[1:] == [[2, 4]]


def test_a_part_that_the_storage_does_not_give_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(tmp_path)
    _complete(store, FakePolicy())

    def fails(path: StoragePath, *unused: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as broken, pytest.raises(OSError, match="Input/output error"):
        broken.setattr(StoragePath, "read_table", fails)
        broken.setattr(StoragePath, "read_bytes", fails)
        store.sound_parts()
    assert len(store.sound_parts()) == 1


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    store, policy = _store(tmp_path), FakePolicy()
    _complete(store, policy)
    (part,) = (store.folder / name for name in store.sound_parts())
    data = bytearray(part.read_bytes())
    data[len(data) // 8] ^= 1
    part.write_bytes(bytes(data))
    assert _complete(store, policy)[0].tolist() == [-1, -2]
    assert len(policy.calls) == 2
    assert len(store.sound_parts()) == 1


def test_a_policy_without_finite_numbers_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    store = _store(tmp_path)

    def overflows(positions: np.ndarray) -> np.ndarray:
        return np.full((len(positions), 2), -np.inf, np.float32)

    with pytest.raises(UserError, match=r"no finite log-probability to 4 of 4 pairs .*set alignment\.dtype"):
        complete(KEYS, LENGTHS, store, [], None, 2, overflows, True, lambda done, total: None)
    assert store.sound_parts() == []


def test_look_up_of_nothing_and_of_the_largest_hash() -> None:
    nothing = look_up(KEYS, np.array([], np.uint64), np.empty((0, 2), np.float32))
    assert np.isnan(nothing).all()
    found = look_up(KEYS, np.array([2**64 - 1], np.uint64), np.array([[-1, -2]], np.float32))
    assert found[2].tolist() == [-1, -2]
    assert np.isnan(found[[0, 1, 3, 4]]).all()


def test_parts_are_few_however_many_pairs() -> None:
    positions = np.arange(1_000_000)
    parts = list(reference.chunks(positions, positions, batch=2))
    assert len(parts) == 1000
    assert sorted(np.concatenate(parts).tolist()) == positions.tolist()
    assert len(list(reference.chunks(positions[:80], positions[:80], batch=2))) == 3


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_ranks_make_as_many_full_batches_and_all_of_them_the_positions(count: int) -> None:
    from pdray.alignment.trainer import rank_batches

    positions = np.arange(10, 10 + count)
    ranks = [rank_batches(positions, rank, num_ranks=2, batch_size=2) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    steps = [np.concatenate(step) for step in zip(*ranks, strict=True)]
    joined = np.concatenate(steps)
    assert joined[:count].tolist() == positions.tolist()
    assert set(joined[count:].tolist()) <= {positions[-1]}
