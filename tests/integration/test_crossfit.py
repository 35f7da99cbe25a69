"""The crossfit stage with real trainings: two tiny policies, one for each half of the prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdray.config import CrossfitConfig
from pdray.crossfit.folds import splits
from pdray.crossfit.stage import STAGE
from pdray.schema import PAIRS, CorpusOutput, CrossfitOutput, crossfit_schema, pairs_schema
from pdray.shards import ShardedFolder
from pdray.stages import StageResult, Upstream
from pdray.storage import StoragePath
from pdray.texts import text_tables
from tests import tiny
from tests.dpo_case import alignment
from tests.stages import finished, run_stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]
NUM_PROMPTS = 40


def write_pairs(root: Path) -> Upstream:
    """Pairs whose label is by one word; in a quarter of them it is the other way round."""
    folder = ShardedFolder(StoragePath(str(root / "corpus-test")), "test", 2)
    for shard in range(2):
        prompts = [f"what is {tiny.WORDS[row % len(tiny.WORDS)]} {shard} {row}" for row in range(NUM_PROMPTS // 2)]
        texts = [(prompt, answer) for prompt in sorted(prompts) for answer in (" bad the", " kind the")]
        hard = [row % 4 == 0 for row in range(len(prompts))]
        pairs = {
            "pair_id": [f"{shard}-{row:02}{'-hard' if hard[row] else ''}" for row in range(len(prompts))],
            "aspect": ["a"] * len(prompts),
            "chosen_row": [2 * row + (0 if hard[row] else 1) for row in range(len(prompts))],
            "rejected_row": [2 * row + (1 if hard[row] else 0) for row in range(len(prompts))],
            "overall": [None] * len(prompts),
            "source": [None] * len(prompts),
        }
        tables = text_tables([prompt for prompt, _ in texts], [answer for _, answer in texts], False)
        folder.write(shard, {**tables, PAIRS: pa.table(pairs, schema=pairs_schema([]))}, 0, {})
    output = CorpusOutput(2, NUM_PROMPTS, 2 * NUM_PROMPTS, ["a"], {"a": NUM_PROMPTS}, False)
    return finished("corpus", folder.folder, output)


def run(root: Path, upstream: Upstream, policy: Path) -> StageResult:
    crossfit = CrossfitConfig(
        folds=2, repeats=1, max_steps=12, max_tokens=32, engine="transformers", parity_rows=4, cpus_per_actor=1
    )
    section = alignment(policy, num_workers=1, learning_rate=3e-3, save_steps=100)
    return run_stage(STAGE, root, upstream=upstream, crossfit=crossfit, alignment=section)


def test_the_pairs_that_contradict_the_others_are_hard(tmp_path: Path) -> None:
    policy = tiny.tiny_llama_lm(tmp_path / "model", chat=False)
    upstream = write_pairs(tmp_path)
    result = run(tmp_path, upstream, policy)
    assert result.output == CrossfitOutput(2, NUM_PROMPTS)
    shards = ShardedFolder(StoragePath(str(tmp_path / "crossfit-test")), "test", 2)
    table = pa.concat_tables([shards.read(PAIRS, shard) for shard in range(2)])
    assert table.schema.remove_metadata() == crossfit_schema()
    losses = table["loss"].to_numpy()
    hard = np.array([name.endswith("hard") for name in table["pair_id"].to_pylist()])
    assert losses[hard].mean() > np.log(2) > losses[~hard].mean()
    # Twelve steps on twenty pairs do not part them wholly: of a hard and another pair the hard one has the larger loss.
    assert (losses[hard][:, None] > losses[~hard]).mean() > 0.9
    assert result.metrics["below_ln2"] == pytest.approx((losses < np.log(2)).mean())
    names = [split.name for split in splits(2, 1, 0)]
    assert list(result.metrics["trainings"]) == names
    seen = [facts["train_pairs"] for facts in result.metrics["trainings"].values()]
    assert sum(seen) == NUM_PROMPTS and min(seen) > 10
    assert all(
        facts["first_loss"] == pytest.approx(np.log(2), abs=1e-5) for facts in result.metrics["trainings"].values()
    )
    assert not list((tmp_path / "crossfit-test").glob("*/training")), "policies are deleted"
    # What was lost is made again from the log-probabilities that stayed: the policy is not needed, nor is a training.
    shards.marker_path(1).delete()
    again = run(tmp_path, upstream, tmp_path / "model")
    assert again.metrics["shards_digest"] == result.metrics["shards_digest"]
    assert again.metrics["trainings"] == result.metrics["trainings"]
    assert replace(again, notes=[]) == replace(result, notes=[])
