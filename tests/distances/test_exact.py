"""Exact transport in any dimension: shifts, brute force, linear programs, POT, certificates, orderings."""

import itertools

import numpy as np
import ot
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from gmijax import distances
from gmijax.distances import _transport


def w1(x, y, **weights):
    return distances.w1_exact(x, y, **weights).value


def test_shifted_copies_are_as_far_as_the_shift():
    x = np.random.default_rng(0).normal(size=(10, 3, 4))
    shift = np.zeros((3, 4))
    shift[1, 2] = 0.7
    distance = distances.w1_exact(x, x + shift, given="c", space="z")
    assert distance.value == pytest.approx(0.7)
    assert (distance.n, distance.m, distance.given, distance.space) == (10, 10, "c", "z")
    assert distance.converged
    assert distances.w_inf(x, x + shift) == pytest.approx(0.7)
    assert w1(x, x) == 0


def test_against_all_matchings():
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)) + 1
        costs = [np.linalg.norm(x - y[list(order)], axis=1) for order in itertools.permutations(range(5))]
        assert w1(x, y) == pytest.approx(min(c.mean() for c in costs))
        assert distances.w_inf(x, y) == pytest.approx(min(c.max() for c in costs))


def test_atoms_that_split():
    x, y = np.array([[0.0], [4.0]]), np.array([[0.0], [1.0], [4.0], [4.0]])
    assert w1(x, y) == w1(y, x) == pytest.approx(0.25)
    assert distances.w_inf(x, y) == distances.w_inf(y, x) == 1.0


def test_the_linear_program_agrees_with_the_matching():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    assert w1(x, y) == pytest.approx(w1(np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0)), abs=1e-9)
    counts = np.array([1, 0, 2, 1, 1, 3])
    expected = w1(np.repeat(x, counts, axis=0), np.repeat(y, 2, axis=0))
    assert w1(x, y, weights_x=counts) == pytest.approx(expected, abs=1e-9)
    masses_x, masses_y = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
    line = w1(x[:, :1], y[:, :1], weights_x=masses_x, weights_y=masses_y)
    assert line == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0], masses_x, masses_y), abs=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 299, 30), (64, 200, 3), (1, 7, 2), (120, 120, 5)])
def test_any_sizes_and_weights_agree_with_pot(n, m, d):
    """Far beyond 65,536 pairs too: 300 x 299. Some weights are 0, some points lie on others."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.3
    masses_x, masses_y = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    if n > 1:
        masses_x[::7], y[::5] = 0, x[1]
    plan = distances.transport(x, y, weights_x=masses_x, weights_y=masses_y)
    masses_x, cost = masses_x / masses_x.sum(), cdist(x, y)
    assert plan.value == pytest.approx(ot.emd2(masses_x, masses_y, cost), abs=1e-9)
    coupling = np.zeros((n, m))
    np.add.at(coupling, (plan.rows, plan.columns), plan.masses)
    np.testing.assert_allclose(coupling.sum(1), masses_x, atol=1e-12)
    np.testing.assert_allclose(coupling.sum(0), masses_y, atol=1e-12)
    assert (coupling * cost).sum() == pytest.approx(plan.value, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 30), (45, 60), (31, 57)])
def test_potentials_certify_the_value(n, m):
    """f + g never exceeds the cost, and their means add up to the value: no coupling can cost less."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(n, 20)), rng.normal(size=(m, 20)) + 0.5
    plan = distances.transport(x, y)
    slack = cdist(x, y) - plan.potential_x[:, None] - plan.potential_y
    assert slack.min() >= -1e-12
    assert plan.potential_x.mean() + plan.potential_y.mean() == pytest.approx(plan.value, abs=1e-12)
    assert abs(plan.gap) < 1e-12
    np.testing.assert_allclose(slack[plan.rows, plan.columns], 0, atol=1e-12)


def test_near_points_in_many_dimensions_keep_their_digits():
    """The matrix product for squared distances would lose a move of 1e-6 beside norms of 1e3."""
    x = 1000 + np.random.default_rng(5).normal(size=(40, 64))
    assert w1(x, x + 1e-6 / 8) == pytest.approx(1e-6, rel=1e-5)


@given(st.integers(0, 10_000))
def test_metrics_and_their_order(seed):
    x, y, z = np.random.default_rng(seed).normal(size=(3, 6, 2))
    for distance in (w1, distances.w_inf):
        assert distance(x, y) == pytest.approx(distance(y, x))
        assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-12
        assert distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)
    assert w1(x, y) <= distances.w_inf(x, y) + 1e-12
    assert distances.w_inf(x, y) <= distances.diameter(x, y)
    assert np.linalg.norm(x.mean(0) - y.mean(0)) <= w1(x, y) + 1e-12


@given(st.integers(0, 10_000))
def test_weighted_transport_is_a_metric(seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, 7, 2))
    a, b, c = rng.dirichlet(np.ones(7), size=3)
    there = w1(x, y, weights_x=a, weights_y=b)
    assert there == pytest.approx(w1(y, x, weights_x=b, weights_y=a), abs=1e-9)
    assert w1(x, z, weights_x=a, weights_y=c) <= there + w1(y, z, weights_x=b, weights_y=c) + 1e-9
    assert w1(x, x, weights_x=a, weights_y=a) == pytest.approx(0, abs=1e-9)


def test_diameter_over_blocks():
    x = np.random.default_rng(3).normal(size=(2500, 2))
    x[[7, 2400]] = [[-50.0, 0.0], [50.0, 0.0]]
    assert distances.diameter(x) == pytest.approx(100.0)
    assert distances.diameter(x[:2000], x[2000:]) == pytest.approx(100.0)
    assert distances.diameter(x[:1]) == 0


def test_a_known_distance_has_no_uncertainty():
    distance = distances.known(0.3, given="(c, y)", space="z")
    assert (distance.value, distance.n, distance.m, distance.given, distance.space) == (0.3, 0, 0, "(c, y)", "z")
    assert distance.interval is None
    with pytest.raises(ValueError, match="given must be one of"):
        distances.known(0.3, given="y")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), "not one space"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), "NaN"),
        (np.ones((0, 2)), np.ones((2, 2)), "x must hold points"),
        (np.ones(3), np.ones((2, 2)), "x must hold points"),
    ],
)
def test_bad_points_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        w1(x, y)


def test_bad_weights_and_counts_are_named():
    points = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"weights_x must have one weight a point, shape \(3,\), got \(2,\)"):
        w1(points, points, weights_x=[1, 1])
    with pytest.raises(ValueError, match="weights_y must be finite and >= 0"):
        w1(points, points, weights_y=[1, -1, 1])
    with pytest.raises(ValueError, match="must divide"):
        distances.w_inf(points, points[:2])
    with pytest.raises(ValueError, match="at most 4096"):
        distances.w_inf(np.ones((5000, 1)), np.ones((5000, 1)))


def test_guided_searches_find_the_plain_one_s_cost():
    """Beyond the size that is searched plainly: cold, among good potentials and bad ones, with copies, of two sizes."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 200, 8))
    cost = cdist(x, y)
    plan = distances.transport(x, y)
    good = cost - plan.potential_x[:, None] - plan.potential_y
    bad = cost + 50 * rng.normal(size=(200, 1)) + 50 * rng.normal(size=200)
    for mine, yours in (
        (np.arange(200), np.arange(200)),
        (rng.choice(200, 200), rng.choice(200, 200)),
        (rng.choice(200, 200), rng.choice(200, 100)),
    ):
        full = cost[np.ix_(mine, np.repeat(yours, len(mine) // len(yours)))]
        expected = full[linear_sum_assignment(full)].mean()
        for prices in (cost, good, bad):
            assert _transport.listed_cost(cost, prices, mine, yours) == pytest.approx(expected, rel=1e-12)
    few = rng.choice(200, 199)  # no few copies make these sizes one
    expected = ot.emd2(np.full(200, 1 / 200), np.full(199, 1 / 199), cost[:, few])
    assert _transport.listed_cost(cost, good, np.arange(200), few) == pytest.approx(expected, abs=1e-9)
