"""The input step and the split: every kept pair, in an order that nothing but seed and ids decide."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.alignment import data
from pdray.alignment.inputs import INDEX, forget_damaged, is_order, tokens_path, write_order
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.schema import INPUT, KEPT, PAIRS, kept_schema, selection_schema
from pdray.shards import ShardedFolder, run_rounds
from pdray.storage import StoragePath
from tests import dpo_case, tiny
from tests.dpo_case import alignment, write_kept

POLICY = Path("/models/policy")
NUM_PAIRS = 40


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama_lm(tmp_path_factory.mktemp("policy"))


def _rows(run: Path, selection: ShardedFolder, policy: Path, **options: object) -> list[dict[str, list[int]]]:
    """The pairs as the trainer reads them, in their order."""
    pairs = dpo_case.prepare(run, selection, alignment(policy, **options))
    return list(data.open_pairs(pairs).select(data.read_order(pairs)["row"]))


@pytest.mark.usefixtures("ray_local")
def test_the_order_does_not_depend_on_the_shards(policy: Path, tmp_path: Path) -> None:
    few = _rows(tmp_path / "run-a", write_kept(tmp_path / "a", NUM_PAIRS), policy)
    assert _rows(tmp_path / "run-b", write_kept(tmp_path / "b", NUM_PAIRS, split=0.75), policy) == few
    assert len(few) == NUM_PAIRS
    one_shard = _rows(tmp_path / "run-c", write_kept(tmp_path / "c", NUM_PAIRS, split=0), policy)
    assert one_shard == few
    pairs = dpo_case.prepare(tmp_path / "run-a", write_kept(tmp_path / "a", NUM_PAIRS), alignment(policy), seed=4)
    assert list(data.open_pairs(pairs).select(data.read_order(pairs)["row"])) != few


@pytest.mark.usefixtures("ray_local")
def test_every_kept_pair_is_trained_on_however_long_its_prompt(policy: Path, tmp_path: Path) -> None:
    selection = write_kept(tmp_path / "kept", NUM_PAIRS, longest=60)
    pairs = dpo_case.prepare(tmp_path / "run", selection, alignment(policy, max_tokens=16))
    assert (pairs.pairs, pairs.empty) == (NUM_PAIRS, 0)
    rows = list(data.open_pairs(pairs))
    assert all(row["chosen_ids"] and row["rejected_ids"] for row in rows)
    longest = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    assert max(longest) == 16
    assert 0 < pairs.prompts_cut <= NUM_PAIRS
    assert 0 < pairs.responses_cut <= NUM_PAIRS
    assert sorted(data.read_order(pairs)["row"].tolist()) == list(range(NUM_PAIRS))
    assert data.read_order(pairs)["tokens"].tolist() == [longest[row] for row in data.read_order(pairs)["row"]]


@pytest.mark.usefixtures("ray_local")
def test_what_is_whole_is_not_tokenised_again_and_what_is_not_is(policy: Path, tmp_path: Path) -> None:
    selection, settings = write_kept(tmp_path / "kept", NUM_PAIRS), alignment(policy)
    encoder = dpo_case.encoder(tmp_path / "run", selection, settings)
    before = dpo_case.prepare(tmp_path / "run", selection, settings)
    files = [tokens_path(encoder.target, shard).local for shard in (0, 1)]
    times, texts = [file.stat().st_mtime_ns for file in files], [file.read_bytes() for file in files]
    assert dpo_case.prepare(tmp_path / "run", selection, settings) == before
    assert [file.stat().st_mtime_ns for file in files] == times
    files[1].write_bytes(texts[1][:-8])
    assert dpo_case.prepare(tmp_path / "run", selection, settings) == before
    assert [file.read_bytes() for file in files] == texts
    assert files[0].stat().st_mtime_ns == times[0]
    files[0].unlink()
    encoder.target.table(INDEX, 1).local.unlink()
    assert dpo_case.prepare(tmp_path / "run", selection, settings) == before
    assert [file.read_bytes() for file in files] == texts


def test_a_pair_without_a_response_is_left_out_and_counted(policy: Path, tmp_path: Path) -> None:
    """Messages whose template writes nothing for the answer; a string has its EOS token at least."""
    template = "{% for m in messages if m.role == 'user' or m.content %}{{ m.content }} {% endfor %}"
    tokenizer = tiny.tiny_tokenizer(tmp_path / "policy", "llama", chat=True)
    (tokenizer / "chat_template.jinja").write_text(template)
    user, good, none = (
        [{"role": role, "content": text}] for role, text in (("user", "go"), ("assistant", "good"), ("assistant", ""))
    )
    rows = [
        {"pair_id": name, "prompt": user, "chosen": chosen, "rejected": rejected, "aspect": "helpful"}
        for name, chosen, rejected in (("a", good, none), ("b", good, good + good), ("c", none, good))
    ]
    selection = ShardedFolder(StoragePath(str(tmp_path / "kept")), "test", 1)
    pairs = pa.table([["a", "b", "c"], [-1.0, 0.5, 2.0], [True] * 3], selection_schema([]))
    selection.write(0, {PAIRS: pairs, KEPT: pa.Table.from_pylist(rows, kept_schema(True))}, 0, {})
    encoder = dpo_case.encoder(tmp_path / "run", selection, alignment(tokenizer))
    markers = run_rounds(encoder.target, lambda missing: [encoder(shard) for shard in missing], print)
    facts = markers[0].facts
    assert (facts["pairs"], facts["empty"]) == (1, 2)
    assert encoder.target.read(INDEX, 0)["divergence"].to_pylist() == [0.5], "of the pair that stays"


@pytest.mark.usefixtures("ray_local")
def test_every_pair_brings_its_own_divergence(policy: Path, tmp_path: Path) -> None:
    pairs = dpo_case.prepare(tmp_path / "run", write_kept(tmp_path / "kept", NUM_PAIRS), alignment(policy), seed=3)
    ids = dpo_case.pair_ids(NUM_PAIRS)
    ordered = [ids[place] for place in np.argsort(hash64(ids, salt="alignment 3"))]
    order = data.read_order(pairs)
    assert order["divergence"].tolist() == pytest.approx([dpo_case.divergence(one) for one in ordered], abs=1e-6)
    assert order["kappa"].tolist() == [3.0] * NUM_PAIRS


def test_kept_pairs_that_are_not_those_of_the_divergence_are_no_input(policy: Path, tmp_path: Path) -> None:
    selection = write_kept(tmp_path / "kept", 6)
    kept = selection.read(KEPT, 1)
    selection.write(1, {PAIRS: dpo_case.selection_pairs(["pair-0000"] * len(kept)), KEPT: kept}, 0, {})
    outcome = dpo_case.encoder(tmp_path / "run", selection, alignment(policy))(1)
    assert "shard 1: kept are other pairs" in str(outcome.error)


def test_a_damaged_shard_is_an_error_and_not_a_smaller_training_set(policy: Path, tmp_path: Path) -> None:
    shards = write_kept(tmp_path / "kept", 20)
    shards.table(KEPT, 1).local.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.parquet is damaged"):
        dpo_case.encoder(tmp_path / "run", shards, alignment(policy))(1)


def test_a_marker_does_not_outlive_its_tokens(policy: Path, tmp_path: Path) -> None:
    encoder = dpo_case.encoder(tmp_path / "run", write_kept(tmp_path / "kept", 20), alignment(policy))
    assert [encoder(shard).error for shard in (0, 1)] == [None, None]
    forget_damaged(encoder.target)
    assert len(encoder.target.done()) == 2
    tokens_path(encoder.target, 1).local.unlink()
    forget_damaged(encoder.target)
    assert list(encoder.target.done()) == [0]


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    policy = tiny.tiny_tokenizer(tmp_path / "policy", "llama")
    path = policy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(UserError, match=r"has no EOS token; set one in its tokenizer_config\.json"):
        dpo_case.encoder(tmp_path / "run", write_kept(tmp_path / "kept", 6), alignment(policy))(0)


@pytest.mark.parametrize(
    ("pairs", "share", "batch_size", "expected"),
    [(100, 0.05, 1, 4), (100, 0.1, 4, 8), (100, 0.05, 4, 4), (100, 0.0, 1, 0), (30, 0.05, 1, 0), (100, 0.03, 8, 2)],
)
def test_evaluation_fills_whole_batches_on_two_workers(
    pairs: int, share: float, batch_size: int, expected: int
) -> None:
    settings = alignment(POLICY, held_out=share, batch_size=batch_size, pairs_per_step=16)
    held_out = data.num_held_out(pairs, settings)
    assert held_out == int(pairs * share), "the split knows no workers"
    count = data.num_evaluated(held_out, settings, 2)
    assert count == expected
    assert count % (2 * data.eval_batch_size(held_out, settings, 2)) == 0


@pytest.mark.parametrize(("workers", "passes"), [(1, 8), (2, 4), (3, 3), (4, 2), (8, 1), (16, 1)])
def test_a_step_takes_the_same_pairs_whatever_workers_there_are(workers: int, passes: int) -> None:
    settings = alignment(POLICY, batch_size=2, pairs_per_step=16, epochs=2.5)
    assert data.accumulation(settings, workers) == passes
    assert data.num_steps(100, settings) == 18, "two epochs and a half of seven steps"
    assert data.num_steps(100, alignment(POLICY, max_steps=5)) == 5


def test_too_few_pairs_for_one_step() -> None:
    settings = alignment(POLICY, held_out=0.0, batch_size=2, pairs_per_step=12)
    data.check_enough(12, settings)
    with pytest.raises(UserError, match=r"11 pairs .* takes alignment\.pairs_per_step 12; lower it"):
        data.check_enough(11, settings)


@pytest.mark.parametrize(("max_steps", "trained"), [(None, 36), (1, 4), (8, 32), (9, 36), (20, 36)])
def test_no_more_pairs_are_trained_on_than_the_steps_come_to(max_steps: int | None, trained: int) -> None:
    settings = alignment(POLICY, max_steps=max_steps, held_out=0.1, pairs_per_step=4)
    assert data.num_trained(40, settings) == trained


def test_an_order_that_is_not_whole_is_none(tmp_path: Path) -> None:
    shards = ShardedFolder(StoragePath(str(tmp_path)), "test", 1)
    table = pa.table({name: [1, 2, 3] for name in INPUT.names}, schema=INPUT)
    shards.write(0, {INDEX: table}, 0, {})
    path = shards.folder / "order.arrow"
    assert not is_order(path, 3)
    write_order(shards, [0], 3, path)
    assert (is_order(path, 3), is_order(path, 4)) == (True, False)
    data = path.read_bytes()
    for end in (0, 20, len(data) // 2, len(data) - 200):
        path.write_bytes(data[:end])
        assert not is_order(path, 3), end
    path.delete()
    os.mkfifo(path.local)
    assert not is_order(path, 3)
