"""The demo corpus is what it says: seeded, with the planted share of conflicts and a length bias."""

from __future__ import annotations

import numpy as np

from pdray.corpus.conflict import conflicts
from pdray.demo.corpus import ASPECTS, CONFLICT_SHARE, make_pairs


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


def test_the_label_follows_its_aspect_and_length_follows_the_label():
    pairs = make_pairs()
    assert all(p[f"score_chosen.{p['aspect']}"] > p[f"score_rejected.{p['aspect']}"] for p in pairs)
    longer = np.mean([len(p["chosen"].split()) > len(p["rejected"].split()) for p in pairs])
    assert longer > 0.65
