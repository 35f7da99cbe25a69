"""What the crossfit stage trains, reads, deletes and does again, with trainings and passes that cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdray.alignment.train import Trained
from pdray.config import AlignmentConfig, CrossfitConfig
from pdray.crossfit import stage
from pdray.crossfit.folds import FoldTexts
from pdray.crossfit.losses import FoldLogps, validation_loss
from pdray.engines.encode import TextFacts
from pdray.errors import UserError
from pdray.schema import CrossfitOutput
from pdray.shards import Outcome, ShardedFolder
from pdray.stages import StageContext, StageResult, Upstream
from pdray.storage import StoragePath
from tests.scoring.cases import make_texts, write_corpus
from tests.stages import context, run_stage

LOGPS = np.random.default_rng(0).normal(-9, 2, (60, 2)).astype(np.float32)  # of text 1, 2, ... by policy, reference


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order; ``fail`` among it makes the next training fail."""
    done: list[str] = []

    def train(
        alignment: AlignmentConfig, seed: int, prepare: Any, reference: Any, folder: Path, progress: Any
    ) -> Trained:
        if "fail" in done:
            raise RuntimeError("the machine is gone")
        done.append(f"train {folder.parent.name}")
        (folder / "policy").mkdir(parents=True)
        history = [{"loss": 0.7}, {"eval_loss": 1.0}, {"loss": 0.5}]
        return Trained(folder / "policy", {"train_pairs": 29, "step": 2}, history)

    def read(ctx: StageContext, model: StoragePath, name: str, rows: FoldTexts | None, load: Any) -> ShardedFolder:
        target = stage._target(ctx, name)
        for shard in range(target.num_shards):
            if shard in target.done():
                continue
            done.append(f"read {name} {shard}")
            total = len(ctx.upstream.shards("corpus").read("texts", shard))
            chosen = np.arange(total) if rows is None else rows(shard, total)
            values = LOGPS[chosen, [int(rows is None)]][:, None]
            facts = TextFacts(np.zeros(len(chosen), np.int32), np.zeros(len(chosen), bool))
            target.write(shard, FoldLogps()(shard, chosen, values, facts)[0], 0, {})
        return target

    def outcomes(write: Callable[[int], Outcome], missing: Sequence[int], counter: Any) -> Iterator[Outcome]:
        return (write(shard) for shard in missing)

    monkeypatch.setattr("pdray.alignment.train.train_policy", train)
    monkeypatch.setattr("pdray.alignment.stage.reference_store", lambda run, alignment: None)
    monkeypatch.setattr(stage, "_read", read)
    monkeypatch.setattr(stage, "outcomes", outcomes)
    return done


def run(root: Path, upstream: Upstream, repeats: int = 1) -> StageResult:
    sections = {"crossfit": CrossfitConfig(repeats=repeats), "alignment": AlignmentConfig(policy="p", beta=0.5)}
    return run_stage(stage.STAGE, root, upstream=upstream, **sections)


def test_every_fold_is_trained_once_and_goes_on_where_it_stopped(tmp_path: Path, did: list[str]) -> None:
    upstream = write_corpus(tmp_path, [sorted(make_texts(60)), []])
    folder = tmp_path / "crossfit-test"
    result = run(tmp_path, upstream)
    assert [what for what in did if what.startswith("train")] == ["train policy-1-1", "train policy-1-2"]
    assert did[:2] == ["read reference 0", "read reference 1"] and len(did) == 8
    assert result.output == CrossfitOutput(2, 59) and result.rows_out == 59
    facts = {"train_pairs": 29, "steps": 2, "first_loss": 0.7, "last_loss": 0.5}
    assert result.metrics["trainings"] == {"policy-1-1": facts, "policy-1-2": facts}
    losses = ShardedFolder(StoragePath(str(folder)), "test", 2).read("pairs", 0)["loss"].to_numpy()
    sides = np.stack([np.arange(59), np.arange(1, 60)])
    expected = validation_loss(LOGPS[sides, 0], LOGPS[sides, 1], 0.5)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert result.metrics["mean_loss"] == pytest.approx(expected.mean())
    assert result.metrics["below_ln2"] == pytest.approx((expected < np.log(2)).mean())
    assert not list(folder.glob("*/training"))
    # A second attempt reads and trains what is missing alone.
    did.clear()
    assert run(tmp_path, upstream).metrics == result.metrics and did == []
    ShardedFolder(StoragePath(str(folder / "policy-1-2")), "test/policy-1-2", 2).marker_path(1).delete()
    assert run(tmp_path, upstream).metrics == result.metrics
    assert did == ["train policy-1-2", "read policy-1-2 1"]
    for content in ("", "[]"):
        did.clear()
        (folder / "policy-1-1" / stage.FACTS).write_text(content)
        assert run(tmp_path, upstream).metrics == result.metrics and did == ["train policy-1-1"]


def test_a_training_that_fails_leaves_what_others_read(tmp_path: Path, did: list[str]) -> None:
    upstream = write_corpus(tmp_path, [sorted(make_texts(60))])
    did.append("fail")
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path, upstream, repeats=2)
    did.clear()
    run(tmp_path, upstream, repeats=2)
    trained = [f"policy-{repeat}-{fold}" for repeat in (1, 2) for fold in (1, 2)]
    assert did == [part for name in trained for part in (f"train {name}", f"read {name} 0")]


def test_too_few_pairs_are_refused_once_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "check_model_folder", lambda *arguments: None)
    monkeypatch.setattr(stage, "check_positions", lambda *arguments: None)
    upstream = write_corpus(tmp_path, [sorted(make_texts(20))])
    alignment = AlignmentConfig(policy="p", pairs_per_step=16)
    config = context(stage.STAGE, tmp_path, crossfit=CrossfitConfig(), alignment=alignment).config
    assert stage.STAGE.check is not None
    stage.STAGE.check(config, Upstream())
    with pytest.raises(UserError, match=r"all folds but one have 9 pairs, but one .*pairs_per_step 16; lower it, or"):
        stage.STAGE.check(config, upstream)
