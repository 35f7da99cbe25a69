"""How strong the length remedies are where the config says auto."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdray.config import ProxiesConfig
from pdray.proxies import length, remedies
from pdray.proxies.fit import Pairs, fit_head
from pdray.proxies.quality import rank_correlation
from pdray.proxies.remedies import Remedies, find, nearest_zero, remedy_notes
from pdray.summary import table

HEADS: dict[str, Any] = {"base_model": "x", "train": "head", "length_penalty": 0}


class Corpus:
    """Pairs of two features, quality and one that goes with length; a Bradley-Terry head is fitted to half of them.

    80% of the chosen responses are the longer ones. The head leaves the second feature alone where its mean over the
    drawn pairs is 0: where the share f of draws with a longer chosen response fulfils ``f·longer + (1 − f)·shorter``
    = 0. Quality does not go with length, so there the margins do not either.

    Args:
        longer: mean of the second feature's difference where the chosen response is the longer one.
        shorter: where it is the shorter one.
    """

    def __init__(self, longer: float, shorter: float) -> None:
        rng = np.random.default_rng(0)
        is_longer = np.arange(2000) % 5 > 0
        features = rng.normal(size=(2000, 2))
        features -= features.mean(axis=0)
        features[:, 0] += 0.7
        features[:, 1] += np.where(is_longer, longer, shorter)
        self.difference = features
        self.tokens = (np.where(is_longer, 1, -1) * rng.integers(10, 60, 2000)).astype(np.int64)

    def margins(self, found: Remedies, form: length.Form = "eq16") -> np.ndarray:
        """Δr of the second half under a head that is fitted to the first."""
        tokens = self.tokens[:1000]
        pairs = Pairs(
            self.difference[:1000],
            length.training_margin(tokens, found.loss_penalty, form),
            length.balance_weights(tokens, found.temperature),
        )
        return self.difference[1000:] @ fit_head(pairs, 1e-3).weights

    @property
    def held_out(self) -> np.ndarray:
        """Δlen of the second half."""
        return self.tokens[1000:]

    def find(self, **settings: Any) -> Remedies:
        """The remedies of a config."""
        config = ProxiesConfig.model_validate(HEADS | settings)
        return find(config, self.held_out, lambda one: self.margins(one, config.length_penalty_form))


def test_what_is_given_is_not_looked_for() -> None:
    config = ProxiesConfig(base_model="x", balance_temperature=0.5, length_penalty=0.01)
    assert find(config, np.arange(3), None) == Remedies(0.5, 0.01, 0.01)  # type: ignore[arg-type]
    residual = config.model_copy(update={"length_penalty_form": "residual"})
    assert find(residual, np.arange(3), None) == Remedies(0.5, 0.01, 0.0)  # type: ignore[arg-type]


def test_the_temperature_is_where_the_head_leaves_length_alone() -> None:
    corpus = Corpus(longer=1.0, shorter=-1.5)  # 0 at f = 0.6
    found = corpus.find(balance_temperature="auto")
    assert found.temperature is not None and found.correlation is not None
    assert (found.loss_penalty, found.penalty) == (0.0, 0.0)
    assert length.balanced_share(0.8, found.temperature) == pytest.approx(0.6, abs=0.03)
    margins = corpus.margins(found)
    assert found.correlation == rank_correlation(corpus.held_out, margins) == pytest.approx(0, abs=0.01)
    assert abs(rank_correlation(corpus.held_out, corpus.margins(Remedies(None, 0.0, 0.0))) or 0) > 0.05


def test_a_temperature_that_cannot_reach_zero_is_the_nearest_end() -> None:
    found = Corpus(longer=1.0, shorter=-0.2).find(balance_temperature="auto")  # 0 at f = 1/6, and τ = ∞ gives 1/2
    assert found.temperature == pytest.approx(remedies.HIGHEST)
    assert found.correlation is not None and found.correlation > 0.1


def test_both_are_found_one_after_the_other() -> None:
    corpus = Corpus(longer=1.0, shorter=-0.2)
    both = corpus.find(balance_temperature="auto", length_penalty="auto")
    assert (both.temperature, both.loss_penalty) == (pytest.approx(remedies.HIGHEST), 0.0)
    penalty_alone = corpus.find(balance_temperature=None, length_penalty="auto").penalty
    assert 0 < both.penalty < penalty_alone
    assert both.correlation == pytest.approx(0, abs=0.01)


def test_the_residual_reading_finds_the_penalty_of_the_loss() -> None:
    corpus = Corpus(longer=1.0, shorter=-0.2)
    found = corpus.find(balance_temperature=None, length_penalty="auto", length_penalty_form="residual")
    assert found.penalty == 0.0 and found.loss_penalty > 0
    assert found.correlation == pytest.approx(0, abs=0.01)


@settings(deadline=None, max_examples=10)
@given(slope=st.floats(-0.5, 0.5), seed=st.integers(0, 1000))
def test_the_residual_penalty_of_a_known_slope(slope: float, seed: int) -> None:
    # A fit that takes ρ out of a true slope: the answer is the slope.
    rng = np.random.default_rng(seed)
    tokens = rng.integers(-50, 51, 4000)
    noise = rng.logistic(size=4000)
    config = ProxiesConfig.model_validate(
        HEADS | {"balance_temperature": None, "length_penalty": "auto", "length_penalty_form": "residual"}
    )
    found = find(config, tokens, lambda one: (slope - one.loss_penalty) * tokens + noise)
    assert found.loss_penalty == pytest.approx(slope, abs=0.003)


@given(root=st.floats(-5, 5), start=st.floats(-5, 5), end=st.floats(-5, 5), sign=st.sampled_from([-1.0, 1.0]))
def test_nearest_zero_of_a_line(root: float, start: float, end: float, sign: float) -> None:
    found = nearest_zero(lambda place: sign * (place - root), start, end)
    best = min(max(root, min(start, end)), max(start, end))
    assert abs(found - best) <= max(remedies.TOLERANCE, abs(end - start) / 2**remedies.STEPS)


def test_what_is_not_reached_is_said() -> None:
    def reached(**correlations: float | None) -> dict[str, dict[str, Any]]:
        return {aspect: {"reached_correlation": value} for aspect, value in correlations.items()}

    tau = ProxiesConfig.model_validate(HEADS | {"balance_temperature": "auto"})
    (note,) = remedy_notes(reached(honesty=0.123, tone=0.001, unified=None), tau)
    assert "+0.123 of honesty;" in note and "tone" not in note and "length_penalty to auto" in note
    both = ProxiesConfig.model_validate(HEADS | {"balance_temperature": "auto", "length_penalty": "auto"})
    assert remedy_notes(reached(honesty=0.123), both) == remedy_notes(reached(honesty=0.01), tau) == []
    assert remedy_notes({"honesty": {}}, ProxiesConfig(base_model="x")) == []


def test_what_was_found_is_shown() -> None:
    facts = {"train_pairs": 100, "held_out_accuracy": 0.7, "balance_temperature": 1.5, "length_penalty": 0.02}
    aspects = {
        "given": facts,
        "found": facts | {"reached_correlation": 0.001},
        "in the loss": facts | {"reached_correlation": 0.0, "length_penalty": 0.0, "training_penalty": 0.05},
        "alone": facts | {"reached_correlation": 0.0, "balance_temperature": None},
    }
    stage = {"status": "complete", "folder": "f", "aspects": aspects}
    lines = table({"run": "r", "stages": {"proxies": stage}}).splitlines()
    ends = [line.partition("accuracy 0.700")[2] for line in lines if "accuracy" in line]
    assert ends == ["", ", found τ 1.500 ρ 0.020", ", found τ 1.500 ρ 0.050", ", found ρ 0.020"]
