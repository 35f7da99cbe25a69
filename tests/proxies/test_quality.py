"""What is reported of proxies, against cases computed by hand."""

import numpy as np
import pytest

from pdray.proxies import quality


def test_accuracy_counts_a_tie_half() -> None:
    assert quality.accuracy(np.array([1.0, 0.0, -1.0, 0.0])) == 0.5
    assert quality.accuracy(np.array([])) is None


def test_rank_correlation() -> None:
    # ranks 1 2 3 4 and 1 3 2 4: 1 − 6·2/(4·15) = 0.8
    difference = np.array([1, 2, 3, 4])
    assert quality.rank_correlation(difference, np.array([0.1, 9.0, 0.2, 10.0])) == pytest.approx(0.8)
    assert quality.rank_correlation(np.array([1, 1, 1]), np.array([1.0, 2.0, 3.0])) is None
    assert quality.rank_correlation(np.array([1, 2]), np.array([3.0, 3.0])) is None
    assert quality.rank_correlation(np.array([1]), np.array([3.0])) is None
    assert quality.rank_correlation(np.array([1, 2, 3]), np.array([1.0, np.nan, 3.0])) is None


@pytest.mark.parametrize(
    ("share", "count", "interval"),
    [(0.5, 10, (0.2366, 0.7634)), (1.0, 10, (0.7225, 1.0)), (0.81, 100, (0.7222, 0.8749))],
)
def test_wilson_interval(share: float, count: int, interval: tuple[float, float]) -> None:
    assert quality.wilson_interval(share, count) == pytest.approx(interval, abs=1e-4)


def test_a_proxy_like_a_coin_is_noted_and_a_good_one_is_not() -> None:
    margin = np.where(np.arange(100) < 55, 1.0, -1.0)
    coin = quality.held_out_facts(margin, np.arange(100), None)
    good = quality.held_out_facts(np.ones(100), np.arange(100), margin)
    assert good["length_correlation"] == {"before": pytest.approx(-0.8617, abs=1e-3), "after": None}
    (note,) = quality.chance_notes({"kind": coin, "honest": good})
    assert note.startswith("the proxy of kind may be no better than chance on new prompts: it is right on 55.0% of 100")


def test_agreement_does_not_depend_on_which_response_is_called_chosen() -> None:
    margins = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0], [2.0, 2.0, 0.0]])
    found = quality.agreement(margins)
    assert found[0, 1] == pytest.approx(3 / np.sqrt(14 * 9))
    np.testing.assert_allclose(quality.agreement(margins * [[1], [-1], [1]]), found)
    assert np.isnan(found[2]).all()
    assert quality.agreement_rows(margins)[2] == [None, None, None]


def test_baselines_that_are_left_out_are_said() -> None:
    assert quality.baseline_notes({"without_baseline": []}, 5000) == quality.baseline_notes({}, 5000) == []
    (note,) = quality.baseline_notes({"without_baseline": ["kind", "honest"]}, 5000)
    assert note.endswith(
        "beside that of kind, honest, which would take as long again: more pairs than proxies.max_baseline_pairs, 5,000"
    )


def test_calibration_compares_what_margins_claim_with_what_is_right() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 40_000)
    sure = np.where(rng.random(len(margin)) < 1 / (1 + np.exp(-np.abs(margin))), np.abs(margin), -np.abs(margin))
    true = quality.calibration(sure)
    assert true["confidence"] == pytest.approx(quality.accuracy(sure), abs=0.01)
    assert true["calibration_error"] < 0.015
    boast = quality.calibration(sure * 10)
    assert boast["confidence"] > 0.94 and boast["calibration_error"] == pytest.approx(
        boast["confidence"] - quality.accuracy(sure), abs=0.01
    )
    assert quality.calibration(np.array([np.nan])) == {"confidence": None, "calibration_error": None}
    assert quality.calibration(np.array([0.0])) == {"confidence": 0.5, "calibration_error": 0.0}
