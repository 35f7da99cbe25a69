"""Which prompts a policy is judged on, and which pairs it is trained on; and the loss of a pair."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdray.config import AlignmentConfig, ConfigError, CrossfitConfig, RunConfig, build_config
from pdray.crossfit.folds import FoldTexts, OtherPairs, folds_of, splits
from pdray.crossfit.losses import FoldLogps, LossWriter, validation_loss
from pdray.engines.encode import TextFacts
from pdray.errors import UserError
from pdray.schema import crossfit_schema, fold_logps_schema
from pdray.selection.check import check
from pdray.selection.stage import reads_also
from pdray.shards import ShardedFolder
from pdray.stages import Upstream
from pdray.storage import StoragePath
from tests.scoring.cases import as_messages, make_texts, write_corpus

PROMPTS = pa.chunked_array([[f"prompt {number}" for number in range(3000)]])


def test_folds_are_of_like_size_and_follow_text_and_seed_alone() -> None:
    folds = folds_of(PROMPTS, 3, 0, seed=0)
    counts = np.bincount(folds)
    assert len(counts) == 3 and (abs(counts - 1000) < 100).all()
    turned = pa.chunked_array([PROMPTS.to_pylist()[::-1]])
    assert folds_of(turned, 3, 0, seed=0)[::-1].tolist() == folds.tolist()
    for other in (folds_of(PROMPTS, 3, 1, seed=0), folds_of(PROMPTS, 3, 0, seed=1)):
        assert abs((other == folds).mean() - 1 / 3) < 0.05  # parted anew


@pytest.mark.parametrize("chat", [False, True])
def test_a_policy_is_judged_on_what_it_did_not_see(tmp_path: Path, chat: bool) -> None:
    texts = as_messages(make_texts(60)) if chat else make_texts(60)
    texts = sorted(texts, key=str)
    upstream = write_corpus(tmp_path, [texts[:25], [], texts[25:]], conversational=chat)
    corpus = upstream.shards("corpus")
    every = splits(3, 2, seed=0)
    assert [one.name for one in every] == [f"policy-{repeat}-{fold}" for repeat in (1, 2) for fold in (1, 2, 3)]
    for repeat in range(2):
        inside = [one.of_texts(corpus, 2) for one in every if one.repeat == repeat]
        assert (np.sum(inside, axis=0) == 1).all(), "every text is judged once"
    one = every[0]
    assert FoldTexts(corpus, one)(2, 35).tolist() == np.flatnonzero(one.of_texts(corpus, 2)).tolist()
    pairs = corpus.read("pairs", 2).to_pylist()
    outside = [pair for pair in pairs if not one.of_texts(corpus, 2)[pair["chosen_row"]]]
    assert 0 < len(outside) < len(pairs)
    batches = list(OtherPairs(corpus, one, chat)(2))
    rows = [row for batch, _ in batches for row in batch.to_pylist()]
    assert [row["pair_id"] for row in rows] == [pair["pair_id"] for pair in outside]
    for row, pair in zip(rows, outside, strict=True):
        assert (row["prompt"], row["chosen"]) == tuple(texts[25:][pair["chosen_row"]])
        assert row["rejected"] == texts[25:][pair["rejected_row"]][1]
    assert all(not divergence.any() for _, divergence in batches)
    assert list(OtherPairs(corpus, one, chat)(1)) == []


def test_the_loss_of_a_pair() -> None:
    policy, reference = np.array([[-3.0, -5.0, np.nan], [-9.0, -5.0, -1.0]]), np.array([[-4.0, -5, 0], [-8.0, -5, 0]])
    found = validation_loss(policy, reference, 0.5)
    # ratios 1 and −1, so β M = 1; then M = 0
    np.testing.assert_allclose(found, [math.log(1 + math.exp(-1)), math.log(2), np.nan])
    assert validation_loss(np.array([[-np.inf], [0.0]]), np.zeros((2, 1)), 0.5).tolist() == pytest.approx(
        [np.nan], nan_ok=True
    )


def test_losses_are_the_mean_over_the_repeats(tmp_path: Path) -> None:
    texts = sorted(make_texts(40))
    corpus = write_corpus(tmp_path, [texts]).shards("corpus")

    def logps(name: str, rows: np.ndarray, values: np.ndarray) -> ShardedFolder:
        folder = ShardedFolder(StoragePath(str(tmp_path / name)), name, 1)
        facts = TextFacts(np.zeros(len(rows), np.int32), np.zeros(len(rows), bool))
        tables, _ = FoldLogps()(0, rows, values[:, None].astype(np.float32), facts)
        assert tables["texts"].schema == fold_logps_schema()
        folder.write(0, tables, 0, {})
        return folder

    rng = np.random.default_rng(0)
    reference = rng.normal(-20, 3, 40).astype(np.float32)
    policy = rng.normal(-20, 3, (2, 40)).astype(np.float32)
    judged: list[Any] = []
    for one in splits(2, 2, seed=0):
        rows = FoldTexts(corpus, one)(0, 40)
        judged.append((one, logps(one.name, rows, policy[one.repeat][rows])))
    target = ShardedFolder(StoragePath(str(tmp_path / "out")), "out", 1)
    LossWriter(corpus, logps("reference", np.arange(40), reference), judged, 0.1, target)(0)
    table = target.read("pairs", 0)
    assert table.schema.remove_metadata() == crossfit_schema()
    pairs = corpus.read("pairs", 0)
    assert table["pair_id"].to_pylist() == pairs["pair_id"].to_pylist()
    sides = np.stack([pairs["chosen_row"].to_numpy(), pairs["rejected_row"].to_numpy()])
    # Neighbours of the test's corpus may have prompts in two folds, as a pair of a real corpus never does.
    expected = np.mean([validation_loss(one[sides], reference[sides], 0.1) for one in policy], axis=0)
    np.testing.assert_allclose(table["loss"].to_numpy(), expected, rtol=1e-6)
    marker = target.read_marker(0)
    assert marker is not None and marker.facts["finite"] == 39
    assert marker.facts["right"] == (expected < math.log(2)).sum()


def run_config(**sections: Any) -> RunConfig:
    base = {"corpus": {"path": "x"}, "proxies": {"base_model": "m"}, "selection": {"strategy": "selective"}}
    return RunConfig.model_validate(base | sections)


def test_selective_asks_for_its_section() -> None:
    with pytest.raises(
        UserError, match=r"selective reads the losses .* no crossfit section; add one, as in crossfit: "
    ):
        check(run_config(), Upstream())
    config = run_config(crossfit={}, alignment={"policy": "p"})
    check(config, Upstream())
    assert reads_also(config) == ("crossfit",)
    assert reads_also(run_config(crossfit={}, alignment={"policy": "p"}, selection={})) == ()


def test_crossfit_asks_for_an_alignment_and_trains_as_it_does() -> None:
    with pytest.raises(ConfigError, match=r"crossfit trains policies by the settings of the alignment section, but"):
        build_config({"corpus": {"path": "x"}, "proxies": {"base_model": "m"}, "crossfit": {}})
    alignment = AlignmentConfig(policy="p", beta=0.3, loss="dfpo", max_steps=50, max_tokens=900, held_out=0.1)
    training = CrossfitConfig(max_tokens=64, prompt_tokens=9).training(alignment)
    assert (training.policy, training.beta, training.loss, training.held_out) == ("p", 0.3, "dpo", 0.0)
    assert (training.max_steps, training.max_tokens, training.prompt_tokens) == (50, 64, 9)
    assert CrossfitConfig(max_steps=3).training(alignment).max_steps == 3
    with pytest.raises(ValueError, match="leaves no room for a response"):
        CrossfitConfig(max_tokens=64, prompt_tokens=64)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        CrossfitConfig(folds=1)
