"""Distances whose values are known: shifts, laws on the line, normal laws, and plain float64 definitions."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from scipy.stats import energy_distance, expon, norm, wasserstein_distance

from gmijax import distances
from gmijax.distances import _bandwidth, _discrepancy, _pooled

KEY = jax.random.key(0)
mmd2 = partial(distances.mmd2, permutations=0, key=KEY)
energy = partial(distances.energy, permutations=0, key=KEY)
gaussian_w2 = partial(distances.gaussian_w2, permutations=0, key=KEY)
DUAL = partial(distances.w1, interval="dual", permutations=0, key=KEY)
seeds = st.integers(0, 10_000)


# Shifts.


@settings(max_examples=10)
@given(seeds)
def test_shifted_copies_are_as_far_as_the_shift(seed):
    """Also with weights, which move along: no coupling beats the means' distance."""
    rng = np.random.default_rng(seed)
    x, shift = rng.normal(size=(12, 4)), rng.normal(size=4)
    weights = rng.integers(0, 3, 12)
    weights[:2] = 1
    far = pytest.approx(np.linalg.norm(shift), rel=1e-9)
    with jax.enable_x64(True):
        assert float(DUAL(x, x + shift).value) == far
        assert float(DUAL(x, x + shift, weights_x=weights, weights_y=weights).value) == far
        assert float(gaussian_w2(x, x + shift).value) == far
        searched = distances.max_sliced_w1(x, x + shift, starts=2, iterations=2, permutations=0, key=KEY)
    assert float(searched.value) == far
    assert distances.w1_exact(x, x + shift, weights_x=weights, weights_y=weights).value == far
    assert distances.w_inf(x, x + shift) == far


@pytest.mark.parametrize("dimensions", [2, 5])
def test_a_shift_seen_along_random_directions(dimensions):
    """E |<u, e>| for u uniform on the sphere is Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2)), its mean square 1 / d."""
    directions = 20_000
    x = np.random.default_rng(1).normal(size=(5, dimensions)).astype(np.float32)
    y = x + np.eye(dimensions, dtype=np.float32)[0]
    value = distances.sliced_w1(x, y, directions=directions, permutations=0, key=KEY).value
    mean = math.gamma(dimensions / 2) / (math.sqrt(math.pi) * math.gamma((dimensions + 1) / 2))
    assert abs(float(value) - mean) < 4 * math.sqrt((1 / dimensions - mean**2) / directions)


# The line.


@settings(max_examples=10)
@given(seeds)
def test_on_the_line_every_w1_is_scipys(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 1)), rng.standard_t(3, size=(8, 1)) + 0.3
    u, v = rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(8))
    options = {"permutations": 0, "key": KEY}
    for weights in ({}, {"weights_x": u, "weights_y": v}):
        expected = pytest.approx(wasserstein_distance(x[:, 0], y[:, 0], *weights.values()), rel=1e-9)
        with jax.enable_x64(True):
            assert float(DUAL(x, y, **weights).value) == expected
            assert float(distances.sliced_w1(x, y, directions=2, **weights, **options).value) == expected
            searched = distances.max_sliced_w1(x, y, starts=1, iterations=1, **weights, **options)
            assert float(searched.value) == expected
            assert float(distances.w1_line(x[:, 0], y[:, 0], *weights.values())) == expected
        assert distances.w1_exact(x, y, **weights).value == expected


def test_sinkhorn_on_the_line_at_a_small_epsilon_is_scipys():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 1)), 1.5 * rng.normal(size=(30, 1)) + 2
    expected = wasserstein_distance(x[:, 0], y[:, 0])
    with jax.enable_x64(True):
        result = distances.sinkhorn(x, y, epsilon=2e-3, tolerance=1e-6, max_iterations=100_000, permutations=0, key=KEY)
    assert result.converged
    assert float(result.value) == pytest.approx(expected, rel=1e-3)


GRID = (np.arange(20_000) + 0.5) / 20_000
QUANTILES = {
    # Two laws by their quantiles at the midpoints of a grid; W1, W2 and W_inf in closed form, or None.
    "uniform": (GRID, 0.2 + 0.5 * GRID, 0.13, math.sqrt(0.04 - 0.1 + 0.25 / 3), 0.3),
    "exponential": (expon.ppf(GRID), 3 * expon.ppf(GRID), 2.0, 2 * math.sqrt(2), None),
    "normal": (norm.ppf(GRID), 1 + norm.ppf(GRID, scale=3), None, math.sqrt(5), None),
    "normal, centred": (norm.ppf(GRID), norm.ppf(GRID, scale=3), 2 * math.sqrt(2 / math.pi), 2.0, None),
}


@pytest.mark.parametrize("name", list(QUANTILES))
def test_integrals_of_quantile_functions(name):
    """The midpoint rule errs by the tails' last 1 / 40,000: 1e-4 of W1, 1e-3 of W2; not at all for uniform laws."""
    x, y, first, second, farthest = QUANTILES[name]
    exact = name == "uniform"
    with jax.enable_x64(True):
        if first is not None:
            assert float(distances.w1_line(x, y)) == pytest.approx(first, rel=1e-8 if exact else 1e-4)
        assert float(distances.w2_line(x, y)) == pytest.approx(second, rel=1e-8 if exact else 1e-3)
        if farthest is not None:
            assert float(distances.w_inf_line(x, y)) == pytest.approx(farthest, abs=0.5 / 20_000)


# Normal laws.


def moments(points, weights=None):
    """Mean and unbiased covariance; of weighted rows with n / (n - 1), n those that count."""
    weights = np.ones(len(points)) if weights is None else weights
    share, count = weights / weights.sum(), (weights > 0).sum()
    mean = share @ points
    covariance = sum(s * np.outer(row - mean, row - mean) for s, row in zip(share, points, strict=True))
    return mean, covariance * count / (count - 1)


def bures(first, second):
    """|m - m'|^2 + tr S + tr T - 2 tr (S^1/2 T S^1/2)^1/2, rooted."""
    (mean, s), (other, t) = first, second
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0)).sum()
    return math.sqrt(((mean - other) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross)


@pytest.mark.parametrize(("n", "m", "d"), [(20, 15, 3), (5, 9, 8)])
def test_gaussian_w2_is_the_closed_form_of_the_sample_moments(n, m, d, x64):
    """With fewer rows than dimensions the definition itself takes roots of rounding: 1e-6 there, 1e-10 else."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(size=(m, d)) + 0.5
    u, v = rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, m)
    u[1] = 0
    rel = 1e-10 if min(n, m) > d else 1e-6
    assert float(gaussian_w2(x, y).value) == pytest.approx(bures(moments(x), moments(y)), rel=rel)
    weighted = gaussian_w2(x, y, weights_x=u, weights_y=v).value
    assert float(weighted) == pytest.approx(bures(moments(x, u), moments(y, v)), rel=rel)


def with_moments(factor, mean, seed):
    """30 rows whose unbiased covariance is factor' factor and whose mean is `mean`, to rounding."""
    raw = np.random.default_rng(seed).normal(size=(30, len(factor)))
    raw -= raw.mean(axis=0)
    white = np.linalg.qr(raw)[0] * math.sqrt(29)
    return white @ factor + mean


ANGLE = 0.7
LINE = np.array([[math.cos(ANGLE), math.sin(ANGLE)]])
POPULATION = {
    "equal": (np.eye(2), np.eye(2), 0.0, 0.0),
    "commuting": (np.diag([1.0, 4.0]), np.diag([3.0, 2.0]), 0.0, math.sqrt(4 + 4)),
    "scaled and shifted": (np.eye(2), 2 * np.eye(2), 1.5, math.sqrt(2 * 1.5**2 + 2)),
    "orthogonal lines": (np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]), 0.0, math.sqrt(1 + 4)),
    "lines at an angle": (np.array([[1.0, 0.0]]), LINE, 0.0, math.sqrt(2 - 2 * math.cos(ANGLE))),
    "a line and a plane": (np.array([[1.0, 0.0]]), np.diag([3.0, 2.0]), 0.0, math.sqrt(4 + 4)),
}


@pytest.mark.parametrize("name", list(POPULATION))
def test_gaussian_w2_of_known_moments_singular_ones_too(name, x64):
    first, second, shift, expected = POPULATION[name]
    value = gaussian_w2(with_moments(first, 0.0, 4), with_moments(second, shift, 5)).value
    # The square is right to 1e-15 of the traces: 1e-7 where it is 0.
    assert float(value) == pytest.approx(expected, rel=1e-10, abs=2e-7)


# MMD^2 and the energy distance.


def u_statistic(kernel, x, y, u=None, v=None):
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y), no row with itself, by loops."""
    u, v = np.ones(len(x)) if u is None else u, np.ones(len(y)) if v is None else v

    def mean(first, masses, second, others, same):
        total = mass = 0.0
        for i, j in itertools.product(range(len(first)), range(len(second))):
            if not (same and i == j):
                total += masses[i] * others[j] * kernel(first[i], second[j])
                mass += masses[i] * others[j]
        return total / mass

    return mean(x, u, x, u, True) + mean(y, v, y, v, True) - 2 * mean(x, u, y, v, False)


def rbf(bandwidth):
    return lambda a, b: math.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2))


def minus_distance(a, b):
    return -math.sqrt(((a - b) ** 2).sum())


def two_laws(seed, n=9, m=7, d=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 1.3 * rng.normal(size=(m, d)) + 0.5, rng.uniform(0, 2, n), rng.uniform(0, 2, m)


STATISTICS = {"mmd2": (partial(mmd2, bandwidth=1.2), rbf(1.2)), "energy": (energy, minus_distance)}


@pytest.mark.parametrize("name", list(STATISTICS))
@settings(max_examples=10)
@given(seeds)
def test_u_statistics_are_the_plain_double_loops(name, seed):
    estimate, kernel = STATISTICS[name]
    x, y, u, v = two_laws(seed)
    u[2] = v[0] = 0
    with jax.enable_x64(True):
        assert float(estimate(x, y).value) == pytest.approx(u_statistic(kernel, x, y), abs=1e-12)
        weighted = float(estimate(x, y, weights_x=u, weights_y=v).value)
    assert weighted == pytest.approx(u_statistic(kernel, x, y, u, v), abs=1e-12)
    single = estimate(x.astype(np.float32), y.astype(np.float32)).value
    assert float(single) == pytest.approx(u_statistic(kernel, x, y), abs=2e-6)


@pytest.mark.parametrize("name", list(STATISTICS))
def test_the_jackknife_leaves_out_one_row_at_a_time(name, x64):
    estimate, kernel = STATISTICS[name]
    x, y, *_ = two_laws(6)
    leave_x = np.array([u_statistic(kernel, np.delete(x, i, axis=0), y) for i in range(len(x))])
    leave_y = np.array([u_statistic(kernel, x, np.delete(y, i, axis=0)) for i in range(len(y))])
    variance = sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in (leave_x, leave_y))
    assert float(estimate(x, y).standard_error) == pytest.approx(math.sqrt(variance), rel=1e-10)


@pytest.mark.parametrize("kind", ["mmd2", "energy"])
def test_tiles_beyond_the_largest_dense_matrix_agree_with_the_definition(kind, monkeypatch, x64):
    """41 and 30 rows in tiles of 8: whole tiles, cut ones, and mirrored ones."""
    monkeypatch.setattr(_discrepancy, "DENSE", 16)
    monkeypatch.setattr(_pooled, "TILE", 8)
    estimate, kernel = STATISTICS[kind]
    x, y, u, v = two_laws(7, n=41, m=30)
    result = estimate(x, y, weights_x=u, weights_y=v, permutations=5)
    assert float(result.value) == pytest.approx(u_statistic(kernel, x, y, u, v), abs=1e-12)
    monkeypatch.undo()
    jax.clear_caches()
    dense = estimate(x, y, weights_x=u, weights_y=v, permutations=5)
    for field in ("standard_error", "null", "split_half"):
        assert float(getattr(result, field)) == pytest.approx(float(getattr(dense, field)), rel=1e-9)


def test_blocks_are_plain_u_statistics_of_some_partition():
    """4 + 4 rows in blocks of 2: each key's value is one of the 18 partitions', and all of them occur."""
    x, y, *_ = two_laws(8, n=4, m=4)
    x, y = x.astype(np.float32), y.astype(np.float32)
    possible = []
    for order_x, order_y in itertools.product(itertools.permutations(range(4)), repeat=2):
        halves = [(x[list(order_x[k : k + 2])], y[list(order_y[k : k + 2])]) for k in (0, 2)]
        possible.append(np.mean([u_statistic(rbf(1.2), *half) for half in halves]))
    possible = np.unique(np.round(possible, 9))
    assert len(possible) == 18

    def one(key):
        return distances.mmd2(x, y, bandwidth=1.2, estimator="block", block_size=2, permutations=0, key=key).value

    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 400)))
    gaps = np.abs(values[:, None] - possible)
    assert gaps.min(axis=1).max() < 1e-6
    assert set(gaps.argmin(axis=1)) == set(range(18))


def test_several_bandwidths_add_up(x64):
    x, y, *_ = two_laws(9)
    singles = [float(mmd2(x, y, bandwidth=b).value) for b in (0.5, 1.0, 4.0)]
    assert float(mmd2(x, y, bandwidth=np.array([0.5, 1.0, 4.0])).value) == pytest.approx(sum(singles), abs=1e-12)


@pytest.mark.parametrize("m", [6, 7])
def test_the_median_heuristic_is_the_median_of_pooled_distances(m, x64):
    """9 + 6 rows have 105 distances, 9 + 7 have 120: of those the lower middle one. Rows of weight 0 are out."""
    x, y, *_ = two_laws(10, m=m)
    ordered = np.sort(pdist(np.concatenate([x, y])))
    middle = ordered[(len(ordered) - 1) // 2]
    expected = pytest.approx(u_statistic(rbf(middle), x, y), abs=1e-10)
    assert float(mmd2(x, y).value) == expected
    padded = np.concatenate([x, np.full((3, 3), 50.0)])
    assert float(mmd2(padded, y, weights_x=np.arange(12) < 9).value) == expected


def test_the_median_of_many_rows_is_that_of_random_ones(monkeypatch, x64):
    """40 random rows of 90: the bandwidth is one of their distances, near the median of all."""
    monkeypatch.setattr(_bandwidth, "DENSE", 40)
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(50, 2)), rng.normal(size=(40, 2)) + 1
    picked = [
        float(_bandwidth.median_distance([jnp.asarray(x), jnp.asarray(y)], [jnp.ones(50), jnp.ones(40)], key=key))
        for key in jax.random.split(KEY, 20)
    ]
    every = pdist(np.concatenate([x, y]))
    assert np.abs(np.array(picked)[:, None] - every).min(axis=1).max() < 1e-12
    assert len(set(picked)) > 1
    # The median of 40 rows' distances scatters by about 0.1 here.
    assert np.mean(picked) == pytest.approx(np.median(every), abs=0.1)


def normal_samples(n, d=2):
    """x ~ N(0, I) and y ~ N(1, 2.25 I) in d dimensions."""
    rng = np.random.default_rng(12)
    return rng.normal(size=(n, d)).astype(np.float32), (1 + 1.5 * rng.normal(size=(n, d))).astype(np.float32)


def population_mmd2(bandwidth, d=2):
    """E k(X, Y) of normal laws is a normal density again: widths add up in squares."""

    def mean(variance, shift):
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** (d / 2) * math.exp(-d * shift**2 / (2 * total))

    return mean(2.0, 0) + mean(4.5, 0) - 2 * mean(3.25, 1)


@pytest.mark.parametrize("options", [{}, {"estimator": "block", "block_size": 20}], ids=["unbiased", "block"])
@pytest.mark.parametrize("bandwidth", [0.7, 2.0])
def test_mmd2_finds_the_population_value_of_normal_laws(options, bandwidth):
    result = mmd2(*normal_samples(600), bandwidth=bandwidth, **options)
    assert abs(float(result.value) - population_mmd2(bandwidth)) < 4 * float(result.standard_error)
    assert float(result.standard_error) < 0.3 * population_mmd2(bandwidth)  # so that the line above says something


def mean_absolute(shift, deviation):
    """E |N(shift, deviation^2)|."""
    return deviation * math.sqrt(2 / math.pi) * math.exp(-((shift / deviation) ** 2) / 2) + shift * (
        1 - 2 * norm.cdf(-shift / deviation)
    )


def test_energy_finds_the_population_value_of_normal_laws():
    population = (
        2 * mean_absolute(1, math.sqrt(3.25)) - mean_absolute(0, math.sqrt(2)) - mean_absolute(0, math.sqrt(4.5))
    )
    result = energy(*normal_samples(600, d=1))
    assert abs(float(result.value) - population) < 4 * float(result.standard_error)
    assert float(result.standard_error) < 0.3 * population


@settings(max_examples=10)
@given(seeds)
def test_on_the_line_energy_is_twice_the_integral_of_squared_gaps(seed):
    """Of the V-statistic, which keeps a row's distance 0 to itself: it adds E|X - X'| / n of each sample."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=9), rng.exponential(size=7)
    pooled = np.sort(np.concatenate([x, y]))
    gaps = [(x <= t).mean() - (y <= t).mean() for t in pooled[:-1]]
    integral = 2 * (np.square(gaps) * np.diff(pooled)).sum()
    assert integral == pytest.approx(energy_distance(x, y) ** 2, abs=1e-12)
    own = sum(cdist(s[:, None], s[:, None]).mean() / (len(s) - 1) for s in (x, y))
    with jax.enable_x64(True):
        assert float(energy(x[:, None], y[:, None]).value) + own == pytest.approx(integral, abs=1e-12)


@pytest.mark.parametrize("permutations", [0, 19])
def test_the_energy_distance_on_the_line_is_that_of_all_pairs(permutations, x64):
    """A column of zeros keeps the distances and takes the way of many dimensions; ties and weights of 0 are there."""
    x, y, u, v = two_laws(12, n=15, m=11)
    x, y = np.round(x[:, :1], 1) + 40, np.round(y[:, :1], 1) + 40
    options = {"weights_x": u, "weights_y": v, "permutations": permutations, "key": KEY}
    line = distances.energy(x, y, **options)
    traced = jax.jit(partial(distances.energy, **options))(x, y)
    plane = distances.energy(*(np.concatenate([side, np.zeros_like(side)], axis=1) for side in (x, y)), **options)
    for result in (line, traced):
        for expected, leaf in zip(jax.tree.leaves(plane), jax.tree.leaves(result), strict=True):
            assert float(leaf) == pytest.approx(float(expected), rel=1e-9, abs=1e-11)
