"""The keys of strategies that read log-probabilities, by small arrays."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.schema import CorpusOutput
from pdray.selection import strategies
from pdray.selection.check import check
from pdray.selection.strategies.fusion import fuse, probability
from pdray.selection.strategy import Columns, LogProbs, Table, sort_key, z_scores
from pdray.stages import Upstream

POLICY = np.array([[-10.0, -20.0, -8.0], [-12.0, -10.0, -9.0]])
REFERENCE = np.array([[-11.0, -18.0, -8.0], [-10.0, -12.0, np.nan]])
LOGPS = LogProbs(POLICY, REFERENCE, np.array([[5, 10, 4], [4, 5, 0]]))


def keys(name: str, **statistics: float) -> np.ndarray:
    columns = SimpleNamespace(logps=lambda: LOGPS, own_margins=lambda: np.array([0.5, 2.0, 1.0]))
    found = {key.replace("_", " "): value for key, value in statistics.items()}
    return sort_key(strategies.find(name), Table(np.zeros(3), 0, cast(Columns, columns), found))


def test_implicit_margins() -> None:
    # (−10 + 11) − (−12 + 10) = 3 and (−20 + 18) − (−10 + 12) = −4
    np.testing.assert_array_equal(LOGPS.implicit_margin, [3, -4, np.nan])
    np.testing.assert_array_equal(keys("implicit_margin"), [-3, 4, np.nan])
    np.testing.assert_array_equal(keys("implicit_margin_small"), [3, -4, np.nan])


def test_gap_of_perplexities() -> None:
    # −11/5 + 10/4 = 0.3 and −18/10 + 12/5 = 0.6; a response without tokens has no perplexity
    np.testing.assert_allclose(keys("perplexity_gap"), [-0.3, -0.6, np.nan])
    assert np.isnan(LOGPS.gap_per_token("policy")[2])


def test_alignment_potential() -> None:
    # gaps |−10/5 + 12/4| = 1 and |−20/10 + 10/5| = 0; z(margin) is −1 and 2, z(gap) 0.25 and −0.25
    found = keys("alignment_potential", margin_mean=1, margin_deviation=0.5, gap_mean=0.5, gap_deviation=2)
    np.testing.assert_allclose(found, [-(-1 - 0.25), -(2 + 0.25), np.nan])
    # the same gaps; PD is 0 for all and its z 0 or, from a mean of 2 and a deviation of 4, −0.5
    found = keys("pd_potential", divergence_mean=2, divergence_deviation=4, gap_mean=0.5, gap_deviation=2)
    np.testing.assert_allclose(found, [0.25 - 0.5, -0.25 - 0.5, np.nan])
    table = Table(np.zeros(2), 0, cast(Columns, None), {"x mean": 3.0, "x deviation": 0.0})
    np.testing.assert_array_equal(z_scores(table, "x", np.array([3.0, np.nan])), [0, np.nan])


def test_fusion() -> None:
    np.testing.assert_allclose(probability(np.array([-9.0, 1.0, 2.0, np.inf]), 0.0, 2.0), [0, 0.5, 1, np.nan])
    np.testing.assert_array_equal(probability(np.array([1.0, np.nan]), 1.0, 1.0), [0.5, np.nan])
    # 0.8·0.6 / (0.8·0.6 + 0.2·0.4) = 6/7; certainty wins over doubt, and contradicts its opposite
    found = fuse(np.array([0.8, 1.0, 1.0, np.nan]), np.array([0.6, 0.3, 0.0, 1.0]))
    np.testing.assert_allclose(found, [6 / 7, 1, 0.5, np.nan])
    found = keys("fusion", reward_low=0, reward_high=4, implicit_low=-6, implicit_high=6)
    # reward 1/8 and 1/2, implicit 3/4 and 1/6
    np.testing.assert_allclose(found, [-(1 / 8 * 3 / 4) / (1 / 8 * 3 / 4 + 7 / 8 * 1 / 4), -1 / 6, np.nan])


@pytest.mark.parametrize("name", strategies.BUILT_IN)
def test_each_says_what_it_reads(name: str) -> None:
    strategy = strategies.find(name)
    reads = {
        "implicit_margin",
        "implicit_margin_small",
        "fusion",
        "perplexity_gap",
        "alignment_potential",
        "pd_potential",
    }
    assert bool(strategy.logps) is (name in reads)
    assert strategy.crossfit is (name == "selective")
    assert strategy.about


def test_overall_needs_a_pair_with_an_overall_label_as_soon_as_the_corpus_is_known() -> None:
    sections = {"corpus": {"path": "x"}, "proxies": {"base_model": "m"}, "selection": {"strategy": "overall"}}
    config = RunConfig.model_validate(sections)
    check(config, Upstream())
    unlabelled = CorpusOutput(1, 40, 80, ["a", "b"], {"a": 20, "b": 20}, conversational=False)
    with pytest.raises(UserError, match=r"no pair of the corpus says chosen or rejected in the column overall; write"):
        check(config, Upstream(corpus=unlabelled))
    check(config, Upstream(corpus=replace(unlabelled, preferred=1)))


def test_weights_that_leave_no_divergence_are_refused() -> None:
    def checked(**weights: float) -> None:
        selection = SimpleNamespace(strategy="pd", budget=0.5, weights=weights)
        config = cast(RunConfig, SimpleNamespace(selection=selection, logprobs=None, alignment=None))
        corpus = CorpusOutput(1, 40, 80, ["a", "b"], {"a": 20, "b": 20}, conversational=False)
        check(config, Upstream(corpus=corpus))

    checked(a=0.0)
    with pytest.raises(UserError, match=r"selection\.weights gives every aspect of the corpus the weight 0"):
        checked(a=0.0, b=0.0)
