"""Distances of finite laws, on the line and known: every bad input is refused by name or has a stated answer.

The distances between samples are held to the same in test_protocol.py, CKA in test_cka.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import distances

FINITE = {
    "w1_exact": lambda *points, **weights: distances.w1_exact(*points, **weights).value,
    "transport": lambda *points, **weights: distances.transport(*points, **weights).value,
    "w_inf": distances.w_inf,
}
WEIGHTED = ("w1_exact", "transport")
LINE = {"w1_line": distances.w1_line, "w2_line": distances.w2_line, "w_inf_line": distances.w_inf_line}
POINTS = np.arange(8.0).reshape(4, 2)

BAD_POINTS = [
    (np.ones((4, 3)), "x and y have 2 and 3 dimensions: not one space"),
    (np.full((4, 2), np.nan), "y holds NaN or infinite values; drop these points"),
    (np.full((4, 2), -np.inf), "y holds NaN or infinite values; drop these points"),
    (np.ones((0, 2)), r"y must hold points along its first axis, shape \(n, ...\), got shape \(0, 2\)"),
    (np.ones(4), r"y must hold points along its first axis, shape \(n, ...\), got shape \(4,\)"),
    (np.ones((4, 2), complex), "y must be real, got complex128"),
]


@pytest.mark.parametrize("name", [*FINITE, "diameter"])
@pytest.mark.parametrize(("y", "message"), BAD_POINTS, ids=[f"{k}: {m[:20]}" for k, (_, m) in enumerate(BAD_POINTS)])
def test_bad_points_are_named(name, y, message):
    with pytest.raises(ValueError, match=message):
        (FINITE | {"diameter": distances.diameter})[name](POINTS, y)


BAD_WEIGHTS = [
    (np.ones(3), r"must have one weight a point, shape \(4,\), got \(3,\)"),
    (np.array([1, 1, 1, -1]), "must be finite and >= 0"),
    (np.array([1, 1, 1, np.nan]), "must be finite and >= 0"),
    (np.array([1, 1, 1, np.inf]), "must be finite and >= 0"),
    (np.zeros(4), "must be finite and >= 0 with a positive sum"),
]


@pytest.mark.parametrize("side", ["weights_x", "weights_y"])
@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize(("weights", "message"), BAD_WEIGHTS, ids=["shape", "negative", "NaN", "infinite", "zeros"])
def test_bad_weights_are_named(name, weights, message, side):
    with pytest.raises(ValueError, match=f"{side} {message}"):
        FINITE[name](POINTS, POINTS, **{side: weights})


@pytest.mark.parametrize("name", list(FINITE))
def test_one_point_constant_columns_and_duplicates_have_an_answer(name):
    """Finite laws are no samples: one point is a law, and the mass of equal points adds up."""
    distance = FINITE[name]
    assert distance([[0.0, 0.0]], [[3.0, 4.0]]) == pytest.approx(5)
    assert distance(POINTS[:1], POINTS[:1]) == 0
    assert distance(np.ones((4, 2)), np.ones((4, 2))) == 0
    other = POINTS[::-1] * 1.5 + 1
    expected = pytest.approx(distance(POINTS, other), abs=1e-12)
    constant = np.full((4, 1), 7.0)
    assert distance(np.hstack([POINTS, constant]), np.hstack([other, constant])) == expected
    assert distance(np.repeat(POINTS, 2, axis=0), other) == expected
    assert distance(POINTS.reshape(4, 1, 2), other.reshape(4, 2, 1)) == expected  # points of any shape, flattened


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_point_without_mass_is_not_there(name):
    other = POINTS + np.array([[0.5, 0.0]])
    far = np.concatenate([POINTS, [[1e6, 1e6]]])
    assert FINITE[name](far, other, weights_x=[1, 1, 1, 1, 0]) == pytest.approx(0.5)
    assert FINITE[name]([[0.0], [5.0]], [[1.0]], weights_x=[0, 2]) == pytest.approx(4)


def test_w1_exact_refuses_unknown_conditions():
    with pytest.raises(ValueError, match=r"given must be one of '\(c, y\)', 'c', 'none', got 'x'"):
        distances.w1_exact(POINTS, POINTS, given="x")


def test_the_diameter_of_one_point_and_of_equal_ones_is_0():
    assert distances.diameter(POINTS[:1]) == distances.diameter(np.ones((5, 2)), np.ones((2, 2))) == 0


# The line: arrays are any numbers of points, and under a trace nothing but their shapes is known.


@pytest.mark.parametrize("name", list(LINE))
def test_on_the_line_bad_input_is_named(name):
    distance, points = LINE[name], np.arange(3.0)
    for x, y, message in ((np.ones(0), points, "x must hold"), (points, np.ones((2, 0)), "y must hold")):
        with pytest.raises(ValueError, match=f"{message} points along its last axis, got shape"):
            distance(x, y)
    with pytest.raises(ValueError, match="weights_x must be >= 0; a weight of 0 leaves a point out"):
        distance(points, points, np.array([1.0, -1.0, 1.0]), np.ones(3))
    with pytest.raises(ValueError, match="weights_y must be >= 0"):
        distance(points, points, None, np.array([1.0, 1.0, -1e-3]))


@pytest.mark.parametrize("name", list(LINE))
def test_on_the_line_everything_else_has_an_answer(name):
    distance, points = LINE[name], np.arange(3.0)
    assert float(distance(np.zeros(1), np.full(1, -2.0))) == 2
    assert float(distance(np.zeros(1), np.array([2.0, 2.0, 2.0]))) == 2
    assert float(distance(np.ones(3), np.ones(5))) == 0
    assert float(distance(points, np.repeat(points, 3))) == pytest.approx(0, abs=1e-6)
    assert float(distance(np.append(points, 1e6), points + 1, np.array([1.0, 1, 1, 0]), np.ones(3))) == 1
    assert np.isnan(distance(np.array([np.nan, 1, 2]), points))
    assert np.isnan(distance(points, points, np.array([np.nan, 1, 1]), np.ones(3)))
    assert np.isnan(distance(points, points, np.zeros(3), np.ones(3)))
    assert float(distance(np.array([np.inf, 1, 2]), points)) == np.inf
    assert np.isnan(jax.jit(partial(distance, weights_x=jnp.zeros(3)))(points, points))


# Known distances.


@pytest.mark.parametrize("value", [-0.1, np.nan, -np.inf])
def test_a_known_distance_is_at_least_0(value):
    with pytest.raises(ValueError, match="value must be a distance of at least 0, got"):
        distances.known(value)


def test_known_distances_may_be_0_or_infinite():
    assert distances.known(0.0).value == 0
    assert distances.known(np.inf).value == np.inf
