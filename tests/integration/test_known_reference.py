"""What the stage logprobs has read of the reference is not computed again, where the training agrees with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdray.alignment.known import KnownWriter
from pdray.alignment.reference import ReferenceStore
from pdray.alignment.stage import input_shards
from pdray.schema import KEPT, PAIRS
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from tests import dpo_case, tiny
from tests.dpo_runs import PAIRS as NUM_PAIRS
from tests.dpo_runs import make_job, read_facts, read_losses, train_all
from tests.logprobs.cases import read
from tests.scoring.cases import write_corpus

pytestmark = pytest.mark.usefixtures("ray_local")
MAX_TOKENS = 18  # some pairs are cut


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stage folders of a training that knows, and of one that knows something wrong and computes everything."""
    root = tmp_path_factory.mktemp("known")
    policy = tiny.tiny_llama_lm(root / "policy")
    selection = dpo_case.write_kept(root / "selection", NUM_PAIRS)
    corpus = _corpus_of(root, selection)
    _, logprobs = read(root, corpus, policy=str(policy), max_tokens=MAX_TOKENS)
    options = {"max_steps": 6, "max_tokens": MAX_TOKENS, "zero_stage": 2}
    jobs = {name: make_job(root, name, selection, policy, run=f"run {name}", **options) for name in ("known", "wrong")}
    for name in jobs:
        settings = dpo_case.alignment(policy, max_tokens=MAX_TOKENS)
        inputs = input_shards(StoragePath(str(root / f"run {name}")), selection, settings, 3)
        store = ReferenceStore(StoragePath(str(root / f"{name} logps")))
        writer = KnownWriter(corpus.shards("corpus"), logprobs, "policy", inputs, 3, MAX_TOKENS, store)
        found = [writer(shard) for shard in range(selection.num_shards)]
        assert found == [writer(shard) for shard in range(selection.num_shards)], "read again, not made again"
        assert NUM_PAIRS / 2 < sum(found) < NUM_PAIRS
        if name == "wrong":
            keys, logps = store.read(store.sound_parts())
            store.write(store.sound_parts()[0], keys, logps + np.array([-1, 0], np.float32))
        jobs[name] = replace(jobs[name], pairs=replace(jobs[name].pairs, known=store.folder))
    assert train_all(jobs, selection, 2) == {}
    return {name: job.folder for name, job in jobs.items()}


def _corpus_of(root: Path, selection: ShardedFolder):
    """A corpus whose pairs are those of a selection."""
    kept = [selection.read(KEPT, shard).to_pylist() for shard in range(selection.num_shards)]
    sides = ("chosen", "rejected")
    upstream = write_corpus(root, [[(row["prompt"], row[side]) for row in rows for side in sides] for rows in kept])
    corpus = upstream.shards("corpus")
    for shard, rows in enumerate(kept):
        tables = {name: corpus.read(name, shard) for name in ("prompts", "texts", PAIRS)}
        own = tables[PAIRS].slice(0, len(rows)).to_pydict()
        own |= {"pair_id": [row["pair_id"] for row in rows], "aspect": [row["aspect"] for row in rows]}
        own |= {"chosen_row": range(0, 2 * len(rows), 2), "rejected_row": range(1, 2 * len(rows), 2)}
        tables[PAIRS] = type(tables[PAIRS]).from_pydict({k: list(v) for k, v in own.items()}, tables[PAIRS].schema)
        corpus.write(shard, tables, ids_sum=0, facts={})
    return upstream


def test_known_pairs_are_not_computed(trained: dict[str, Path]) -> None:
    facts = {name: read_facts(folder) for name, folder in trained.items()}
    read = facts["wrong"]["train_pairs"] + facts["wrong"]["eval_pairs"]
    assert facts["known"]["reference_error"] < 1e-4
    assert read / 2 < facts["known"]["reference_known"] < read
    assert facts["known"]["reference_computed"] == read - facts["known"]["reference_known"]


def test_the_training_is_the_same(trained: dict[str, Path]) -> None:
    assert read_losses(trained["known"])[0] == pytest.approx(math.log(2), abs=1e-5)
    assert read_losses(trained["known"]) == pytest.approx(read_losses(trained["wrong"]), abs=1e-4)


def test_what_the_training_does_not_agree_with_is_left_aside(trained: dict[str, Path]) -> None:
    facts = read_facts(trained["wrong"])
    assert facts["reference_known"] == 0
    assert facts["reference_error"] == pytest.approx(0.1, abs=1e-3), "β times 1 nat"
    assert facts["reference_computed"] == facts["train_pairs"] + facts["eval_pairs"]
    assert read_losses(trained["wrong"])[0] == pytest.approx(math.log(2), abs=1e-5)
