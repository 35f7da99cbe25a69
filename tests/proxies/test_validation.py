"""Form and strength of a head follow from what it predicts of pairs that it has not seen."""

import math

import numpy as np
import pytest

from pdray.proxies.features import PairFeatures
from pdray.proxies.forms import EPSILON, Linear, ProxyPairs, Scale, Tanh, stacked
from pdray.proxies.validation import Validation, choose, fold_of

pytestmark = pytest.mark.usefixtures("one_thread")
FEATURES = 16
FORMS = (Linear(dense=True), Tanh(units=16, seed=0))


def world(texts: int, pairs: int, recurring: bool) -> tuple[ProxyPairs, Scale]:
    """Texts with a quality of their own that recur in many pairs; or new texts, of a quality linear in the features."""
    draw = np.random.default_rng(3)
    values = draw.normal(size=(texts, FEATURES)).astype(np.float32)
    if recurring:
        quality, one, other = 2 * draw.normal(size=texts), *draw.integers(0, texts, (2, pairs))
        one, other = one[one != other], other[one != other]
    else:
        quality, (one, other) = values @ draw.normal(size=FEATURES), np.arange(2 * pairs).reshape(2, -1)
    wins = quality[one] + draw.logistic(size=len(one)) > quality[other]
    features = PairFeatures(
        values, np.where(wins, one, other), np.where(wins, other, one), np.zeros(len(one), np.int64)
    )
    return ProxyPairs(features, np.zeros(len(one)), np.ones(len(one))), Scale(*features.moments())


def prompts_of(pairs: ProxyPairs) -> np.ndarray:
    return np.arange(len(pairs.margin)).astype(np.uint64)


def test_texts_that_recur_are_learned_by_tanh_units_and_new_ones_by_weights() -> None:
    """Seen red with the choice inverted."""
    pairs, scale = world(60, 1500, recurring=True)
    chosen = choose(FORMS, pairs, scale, prompts_of(pairs), 1.0)
    assert chosen.form.name == "tanh"
    assert chosen.measured["tanh"].loss < chosen.measured["linear"].loss - 0.05
    pairs, scale = world(800, 400, recurring=False)
    chosen = choose(FORMS, pairs, scale, prompts_of(pairs), 0.0)
    assert chosen.form.name == "linear"
    assert chosen.measured["linear"].loss <= chosen.measured["tanh"].loss


def test_texts_that_recur_within_their_prompt_are_no_reason_for_tanh_units_on_new_prompts() -> None:
    """Folds of single pairs choose tanh units here; folds of whole prompts, as for new ones, choose weights."""
    draw = np.random.default_rng(5)
    values, quality = draw.normal(size=(60, FEATURES)).astype(np.float32), 3 * draw.normal(size=60)
    prompt = draw.integers(0, 10, 600)
    one, other = 6 * prompt + draw.integers(0, 6, 600), 6 * prompt + draw.integers(0, 6, 600)
    apart = one != other
    one, other, prompt = one[apart], other[apart], prompt[apart].astype(np.uint64)
    wins = quality[one] + draw.logistic(size=len(one)) > quality[other]
    features = PairFeatures(
        values, np.where(wins, one, other), np.where(wins, other, one), np.zeros(len(one), np.int64)
    )
    pairs, scale = ProxyPairs(features, np.zeros(len(one)), np.ones(len(one))), Scale(*features.moments())
    assert choose(FORMS, pairs, scale, prompt, 1.0).form.name == "tanh"
    assert choose(FORMS, pairs, scale, prompt, 0.0).form.name == "linear"


def test_of_equal_forms_the_first_is_taken() -> None:
    pairs, scale = world(200, 100, recurring=False)
    first, second = Linear(dense=True), Linear(dense=True)
    assert choose((first, second), pairs, scale, prompts_of(pairs), 0.0).form is first


def test_folds_keep_prompts_whole_and_are_of_like_size() -> None:
    groups = np.random.default_rng(0).integers(0, 2**63, 30).astype(np.uint64)[np.arange(300) % 30]
    fold = fold_of(groups)
    assert all(len(set(fold[groups == group])) == 1 for group in groups)
    assert np.bincount(fold).tolist() == [100, 100, 100]


def test_repeated_texts_of_a_prompt_do_not_make_strength_look_harmless() -> None:
    """Forty features that name the prompt: useless elsewhere, and only folds of whole prompts show it."""
    draw = np.random.default_rng(1)
    prompt = np.arange(400) % 40
    values = np.zeros((401, 40), np.float32)
    values[:400] = 0.05 * draw.normal(size=(400, 40))
    values[np.arange(400), prompt] += draw.choice([-1.0, 1.0], 40)[prompt]
    features = PairFeatures(values, np.arange(400), np.full(400, 400), np.zeros(400, np.int64))
    pairs, scale = ProxyPairs(features, np.zeros(400), np.ones(400)), Scale(np.zeros(40), np.ones(40))
    new, half, seen = (
        choose([Linear(dense=False)], pairs, scale, prompt.astype(np.uint64), share) for share in (0.0, 0.5, 1.0)
    )
    assert new.fit.l2 > seen.fit.l2
    assert new.measured["linear"].accuracy < 0.6 < 0.8 < seen.measured["linear"].accuracy
    assert len(half.measured["linear"].compared) > 1
    for strength, loss in half.measured["linear"].compared.items():
        both = [of_run.measured["linear"].compared.get(strength, math.nan) for of_run in (new, seen)]
        assert math.isnan(sum(both)) or loss == pytest.approx(np.mean(both))


@pytest.mark.parametrize("best", range(6))
def test_the_search_goes_to_where_the_loss_falls(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, scale = world(60, 300, recurring=True)
    form = Linear(dense=False)
    far = {strength: float(abs(place - best)) for place, strength in enumerate(form.strengths)}
    monkeypatch.setattr(Validation, "_measured", lambda self, form, l2, steps=None: (far[l2], 0.5))
    found = Validation(pairs, scale, prompts_of(pairs), 1.0).measure(form)
    assert (found.strength, found.loss) == (form.strengths[best], 0.0)


def test_the_loss_of_the_best_strength_is_that_of_whole_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, scale = world(60, 300, recurring=True)
    form, seen = Tanh(6, 0), (pairs, scale, prompts_of(pairs), 1.0)
    monkeypatch.setattr(Tanh, "search_steps", 3)
    searched = Validation(*seen).measure(form)
    monkeypatch.setattr(Tanh, "strengths", (searched.strength,))
    monkeypatch.setattr(Tanh, "search_steps", None)
    whole = Validation(*seen).measure(form)
    assert (searched.loss, searched.accuracy) == (whole.loss, whole.accuracy)
    assert searched.compared[searched.strength] != searched.loss


@pytest.mark.parametrize(("share", "splits"), [(0.0, 3), (0.04, 3), (0.05, 6), (0.95, 6), (0.97, 3), (1.0, 3)])
def test_a_kind_of_pair_that_hardly_occurs_costs_no_fit(share: float, splits: int) -> None:
    pairs, scale = world(80, 200, recurring=True)
    found = Validation(pairs, scale, prompts_of(pairs) % 50, share).splits
    assert len(found) == splits
    assert sum(weight for weight, _ in found) == pytest.approx(1.0)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_strength_has_the_smallest_validation_loss_and_the_fit_is_on_all_pairs(form: Linear | Tanh) -> None:
    pairs, scale = world(80, 200, recurring=True)
    chosen = choose([form], pairs, scale, prompts_of(pairs), 0.0)
    compared = chosen.measured[form.name].compared
    assert chosen.fit.l2 == min(compared, key=compared.__getitem__)
    place = form.strengths.index(chosen.fit.l2)
    assert set(form.strengths[max(0, place - 1) : place + 2]) <= set(compared), "both neighbours were compared"
    assert form.strengths[len(form.strengths) // 2] in compared
    np.testing.assert_array_equal(chosen.fit.weights, form.fit(pairs, scale, chosen.fit.l2).weights)


def test_a_linear_head_is_the_same_with_and_without_a_dense_layer() -> None:
    draw = np.random.default_rng(0)
    weights, scale = draw.normal(size=FEATURES), Scale(draw.normal(size=FEATURES), draw.uniform(1, 2, FEATURES))
    features = draw.normal(size=(9, FEATURES)).astype(np.float32)
    straight, unit = (Linear(dense).head(weights, scale).rewards(features)[:, 0] for dense in (False, True))
    reward = (features - scale.mean) @ (weights / scale.spread)
    np.testing.assert_allclose(straight - straight[0], reward - reward[0], atol=1e-5)
    np.testing.assert_allclose(unit, reward, atol=np.abs(reward).max() ** 3 * EPSILON**2 / 3 + 1e-5)


def test_heads_of_both_forms_share_one_dense_layer() -> None:
    pairs, scale = world(60, 300, recurring=True)
    draw = np.random.default_rng(0)
    tanh = Tanh(6, 0)
    heads = [
        tanh.head(draw.normal(size=6 * FEATURES + 12), scale),
        Linear(dense=True).head(draw.normal(size=FEATURES), scale),
        tanh.head(draw.normal(size=6 * FEATURES + 12), scale),
    ]
    values = pairs.features.values
    together = stacked(heads, FEATURES)
    assert together.dense is not None
    assert together.dense.shape == (FEATURES, FEATURES)
    alone = np.concatenate([head.rewards(values) for head in heads], axis=1)
    np.testing.assert_allclose(together.rewards(values), alone, atol=1e-4)
    assert not together.dense[13:].any()
