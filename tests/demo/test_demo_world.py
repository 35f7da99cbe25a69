"""The demo's world is what it says: seeded, its conflicts exact, its words a hint, its lengths fair."""

from __future__ import annotations

import numpy as np
import pytest

from pdray.corpus.conflict import conflicts
from pdray.demo import words, world


def differences(pairs: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """True rating of chosen less that of rejected, (n, κ), and the aspect that labelled each pair."""
    gaps = [[pair[f"score_chosen.{one}"] - pair[f"score_rejected.{one}"] for one in words.ASPECTS] for pair in pairs]
    return np.array(gaps, float), np.array([words.ASPECTS.index(pair["aspect"]) for pair in pairs])


def test_seeded() -> None:
    assert world.make_pairs(40, 0.2, 1) == world.make_pairs(40, 0.2, 1)
    assert world.make_pairs(40, 0.2, 1) != world.make_pairs(40, 0.2, 2)
    assert world.make_held_out(40, 1) == world.make_held_out(40, 1)
    assert world.make_held_out(40, 1) != world.make_held_out(40, 2)


@pytest.mark.parametrize("level", [0.1, 0.2, 0.3])
def test_the_level_is_exact_in_the_papers_sense(level: float) -> None:
    gaps, own = differences(world.make_pairs(1000, level, 0))
    assert conflicts(gaps, own, np.full(4, 4.0)).sum() == round(level * 1000)
    assert (np.bincount(own) == 250).all()


def test_ids_and_sizes_are_those_that_the_demo_tells() -> None:
    pairs = world.make_pairs()
    assert len(pairs) == world.NUM_PAIRS == 2400
    assert (pairs[0]["pair_id"], pairs[-1]["pair_id"]) == ("demo-00000", "demo-02399")
    gaps, own = differences(pairs)
    assert conflicts(gaps, own, np.full(4, 4.0)).mean() == world.CONFLICT_SHARE


def test_annotators_slip_by_bradley_terry() -> None:
    gaps, own = differences(world.make_pairs(4000, 0.2, 0))
    mine = gaps[np.arange(len(own)), own]
    # Of two ratings that differ by d, 5 − d are as far apart; the others' ratings are independent of the own one's.
    apart = np.array([4, 3, 2, 1]) / 10
    expected = float((apart / (1 + np.exp(-world.CARE * np.arange(1, 5)))).sum())
    assert mine.all()
    assert np.mean(mine > 0) == pytest.approx(expected, abs=0.02)


def test_words_hint_as_often_as_stated() -> None:
    assert 0.75 <= world.bayes_accuracy() <= 0.85
    pairs = world.make_pairs(3000, 0.2, 0)
    shown = {
        (aspect, side): np.array([stands_for(pair[side], aspect) for pair in pairs])
        for aspect in words.ASPECTS
        for side in ("chosen", "rejected")
    }
    gaps, _ = differences(pairs)
    for number, aspect in enumerate(words.ASPECTS):
        told = np.sign(shown[aspect, "chosen"] - shown[aspect, "rejected"])
        differ = gaps[:, number] != 0
        found = np.mean((told[differ] * np.sign(gaps[differ, number]) + 1) / 2)
        # Conditioning on the label makes the ratings lie further apart than those of any two responses.
        assert world.bayes_accuracy() - 0.02 <= found <= world.bayes_accuracy() + 0.06


def test_bayes_accuracy_without_noise_and_with_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "CLARITY", 1.0)
    assert world.bayes_accuracy() == pytest.approx(1.0)
    monkeypatch.setattr(world, "CLARITY", 0.0)
    assert world.bayes_accuracy() == pytest.approx(0.5)


def test_length_follows_the_label_a_little_and_not_at_all_among_the_held_out() -> None:
    pairs, held_out = world.make_pairs(4000, 0.2, 0), world.make_held_out(700, 0)
    assert 0.1 < longer(pairs) < 0.3
    assert abs(longer(held_out)) < 0.1


def test_held_out_pairs_have_prompts_of_their_own_and_the_better_response_first() -> None:
    pairs = world.make_held_out(700, 0)
    assert len({pair["prompt"] for pair in pairs}) == 700
    gaps = [words.true_reward(pair["chosen"]) - words.true_reward(pair["rejected"]) for pair in pairs]
    assert np.mean(gaps) > 0.4


def test_the_true_reward_of_a_text() -> None:
    said = " the advice is superb . it sounds lying . the task was met . its facts are mixed . many people ask this ."
    assert words.true_reward(said) == pytest.approx((5 + 1 + 4 + 3) / 4)
    assert words.true_reward("") == 1.0
    assert words.true_reward("superb useless") == pytest.approx((3 + 1 + 1 + 1) / 4)


def test_every_word_stands_for_one_rating_of_one_aspect_and_is_known() -> None:
    rated = [word for ratings in words.RATING_OF.values() for word in ratings]
    assert len(rated) == len(set(rated)) == 80
    pair = world.make_pairs(1, 0.0, 0)[0]
    texts = [pair[name] for name in ("prompt", "chosen", "rejected")]
    assert {word for text in texts for word in text.split()} | set(rated) <= set(words.vocabulary())


def stands_for(text: str, aspect: str) -> int:
    """The rating that the text's word for an aspect stands for."""
    (rating,) = [words.RATING_OF[aspect][word] for word in text.split() if word in words.RATING_OF[aspect]]
    return rating


def longer(pairs: list[dict]) -> float:
    """How much more often the chosen response is the longer one than the shorter one."""
    return float(np.mean([np.sign(len(pair["chosen"].split()) - len(pair["rejected"].split())) for pair in pairs]))
