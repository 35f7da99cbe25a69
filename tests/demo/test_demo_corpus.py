"""The demo corpus is what it says: seeded, with the planted share of conflicts and a length bias."""

from __future__ import annotations

import numpy as np

from pdray.corpus.conflict import conflicts
from pdray.demo.corpus import ASPECTS, CONFLICT_SHARE, SENTENCES, make_held_out, make_pairs


def test_seeded():
    assert make_pairs(50, seed=1) == make_pairs(50, seed=1)
    assert make_pairs(50, seed=1) != make_pairs(50, seed=2)


def test_planted_conflicts_are_conflicts_and_nothing_else_is():
    pairs = make_pairs()
    differences = np.array([[p[f"score_chosen.{a}"] - p[f"score_rejected.{a}"] for a in ASPECTS] for p in pairs])
    own = np.array([ASPECTS.index(p["aspect"]) for p in pairs])
    marks = conflicts(differences.astype(float), own, np.full(len(ASPECTS), 4.0))
    assert len(pairs) >= 2000
    assert marks.sum() == round(CONFLICT_SHARE * len(pairs))


def test_labels_follow_their_aspect_but_for_slips_and_length_follows_the_label():
    pairs = make_pairs()
    own = np.array([p[f"score_chosen.{p['aspect']}"] - p[f"score_rejected.{p['aspect']}"] for p in pairs])
    assert 0.05 < np.mean(own < 0) < 0.2
    assert np.mean(own == -1) > 3 * np.mean(own < -2)
    longer = np.mean([len(p["chosen"].split()) > len(p["rejected"].split()) for p in pairs])
    assert longer > 0.6


def ratings(response: str) -> dict[str, int]:
    """What a response says of itself."""
    found = {}
    for name, (sentence, words) in SENTENCES.items():
        (said,) = [text for text in response.split(" .") if text.strip().startswith(sentence.split("{}")[0].strip())]
        word = said.split()[-1]
        rating = next(number for number, same in enumerate(words, 1) if word in same)
        found[name] = 6 - rating if "hardly" in said else rating
    return found


def test_responses_say_their_ratings():
    for pair in make_pairs(100):
        for side in ("chosen", "rejected"):
            assert ratings(pair[side]) == {name: pair[f"score_{side}.{name}"] for name in ASPECTS}


def test_held_out_pairs_are_new_and_labelled_by_the_truth():
    known = {pair["chosen"] for pair in make_pairs()}
    held_out = make_held_out(200, seed=1)
    assert held_out == make_held_out(200, seed=1) != make_held_out(200, seed=2)
    for pair in held_out:
        assert sum(ratings(pair["chosen"]).values()) > sum(ratings(pair["rejected"]).values())
    assert not known & {pair["chosen"] for pair in held_out}
    longer = np.mean([len(pair["chosen"].split()) - len(pair["rejected"].split()) for pair in held_out])
    assert abs(longer) < 1.5
