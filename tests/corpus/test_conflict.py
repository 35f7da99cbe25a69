"""Conflicts against hand-made ratings."""

from __future__ import annotations

import numpy as np

from pdray.corpus.conflict import conflicts


def test_conflict_is_a_negative_sum_of_the_others():
    # own aspect 0; the others sum to -1, +1, 0; scaled by spans 1 and 1.
    differences = np.array([[5.0, -2.0, 1.0], [5.0, 2.0, -1.0], [5.0, 1.0, -1.0]])
    marks = conflicts(differences, np.zeros(3, int), np.ones(3))
    np.testing.assert_array_equal(marks, [1, 0, 0])


def test_aspects_on_different_scales_count_alike():
    # -3 of a span of 4 against +40 of a span of 100: the first weighs more.
    marks = conflicts(np.array([[1.0, -3.0, 40.0]]), np.array([0]), np.array([4.0, 4.0, 100.0]))
    assert marks[0] == 1


def test_a_sum_that_cancels_is_no_conflict():
    marks = conflicts(np.array([[1.0, 1 / 3, 1 / 3, -2 / 3]]), np.array([0]), np.ones(4))
    assert marks[0] == 0


def test_unknown_without_other_ratings():
    assert np.isnan(conflicts(np.array([[1.0, np.nan]]), np.array([0]), np.ones(2)))[0]
