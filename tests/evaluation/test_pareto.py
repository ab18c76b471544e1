"""Measures of fronts, against hand arithmetic and counting."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genarm_hf.evaluation import hypervolume, inverted_generational_distance, non_dominated

pytest.importorskip("moocore")

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8)


@given(POINTS)
def test_front_and_volume_are_those_of_plain_counting(points):
    array = np.array(points)
    beaten = [any((b >= a).all() and (b > a).any() for b in array) for a in array]
    assert non_dominated(points).tolist() == [not one for one in beaten]
    # unit cubes below any point
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3), -1).reshape(-1, 3)
    volume = sum(bool(((cell + 1) <= array).all(1).any()) for cell in grid)
    assert hypervolume(points, [0, 0, 0]) == pytest.approx(volume)


def test_points_behind_the_reference_add_nothing():
    assert hypervolume([[3.0, 2.0], [9.0, -1.0]], [1.0, 1.0]) == 2.0
    assert hypervolume([[0.0, 0.0]], [1.0, 1.0]) == 0.0


def test_distance_to_a_front_by_hand():
    front = [[0.0, 4.0], [4.0, 0.0]]
    assert inverted_generational_distance(front, front) == 0
    assert inverted_generational_distance([[0.0, 0.0]], front) == 4
    assert inverted_generational_distance([[4.0, 4.0]], front) == 4
    assert inverted_generational_distance([[4.0, 4.0]], front, plus=True) == 0  # better is no distance


@pytest.mark.parametrize("points", [[], [1.0, 2.0], [[1.0, np.nan]], [[[1.0]]]])
def test_bad_points_are_refused(points):
    for measure in (non_dominated, lambda p: hypervolume(p, [0, 0]), lambda p: inverted_generational_distance(p, p)):
        with pytest.raises(ValueError, match="`points` must be finite numbers"):
            measure(points)


def test_other_numbers_of_objectives_are_refused():
    with pytest.raises(ValueError, match="`reference` must have 2 objectives"):
        hypervolume([[1.0, 2.0]], [0.0])
    with pytest.raises(ValueError, match="same objectives"):
        inverted_generational_distance([[1.0, 2.0]], [[1.0]])


def test_without_moocore_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moocore", None)
    with pytest.raises(ImportError, match=r"genarm-hf\[reproduce\]"):
        non_dominated([[1.0, 2.0]])
