"""Resampling and intervals: exact properties, and what they converge to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from gmijax import stats

GROUPS = st.lists(st.integers(0, 3), min_size=12, max_size=12)


@given(GROUPS)
def test_folds_alternate_within_groups(groups):
    second = np.asarray(stats.split_in_two(jnp.asarray(groups)))
    for group in set(groups):
        mine = second[np.asarray(groups) == group]
        assert np.all(mine[1:] != mine[:-1])
    assert second.sum() == 6


@given(GROUPS, st.integers(0, 100))
def test_permutations_stay_within_groups(groups, seed):
    groups = np.asarray(groups)
    orders = np.asarray(stats.permutations_within(jnp.asarray(groups), 5, key=jax.random.key(seed)))
    for order in orders:
        assert sorted(order) == list(range(12))
        assert np.all(groups[order] == groups)


def test_permutations_are_uniform():
    orders = np.asarray(stats.permutations_within(jnp.zeros(3, int), 6000, key=jax.random.key(0)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.all(np.abs(counts - 1000) < 4 * np.sqrt(1000 * 5 / 6))


def test_permutation_p_value_counts_itself():
    null = jnp.asarray([0.0, 1.0, 2.0, 3.0])
    assert stats.permutation_p_value(jnp.asarray(2.0), null) == (1 + 2) / 5
    assert stats.permutation_p_value(jnp.asarray(9.0), null) == 1 / 5


def test_influence_standard_error_is_that_of_a_mean():
    x = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(stats.influence_standard_error(jnp.asarray(x)), x.std(ddof=1) / np.sqrt(50), rtol=1e-6)


def test_normal_interval_has_its_level():
    interval = stats.normal_interval(jnp.asarray(1.0), jnp.asarray(2.0), level=0.95)
    np.testing.assert_allclose(interval, [1 - 2 * 1.959964, 1 + 2 * 1.959964], rtol=1e-6)


def test_exponential_weights_have_unit_mean_and_variance():
    weights = np.asarray(stats.exponential_weights(200, 500, key=jax.random.key(0)))
    assert weights.min() > 0
    assert abs(weights.mean() - 1) < 4 / np.sqrt(weights.size)
    assert abs(weights.var() - 1) < 4 * np.sqrt(8 / weights.size)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_student_intervals_have_students_quantiles(level, x64):
    """By table and by series; for very many values they are normal ones."""
    degrees = np.array([1, 2, 4, 30, 100, 200, 201, 1000, 10**6])
    interval = stats.student_interval(jnp.full(9, 1.0), jnp.full(9, 2.0), jnp.asarray(degrees), level=level)
    half = 2 * t.ppf(0.5 + 0.5 * level, degrees)
    np.testing.assert_allclose(interval.upper, 1 + half, rtol=1e-7)
    np.testing.assert_allclose(interval.lower, 1 - half, rtol=1e-7)
    normal = stats.normal_interval(jnp.asarray(1.0), jnp.asarray(2.0), level=level)
    assert float(interval.upper[-1]) == pytest.approx(float(normal.upper), rel=1e-5)


def test_student_intervals_of_means_of_five_cover():
    """10,000 means of five normal values: 0.95 to three of its binomial errors, where normal ones cover 0.88."""
    values = jax.random.normal(jax.random.key(0), (10_000, 5))
    error = stats.influence_standard_error(values)
    covered = [
        float(jnp.mean((interval.lower <= 0) & (interval.upper >= 0)))
        for interval in (
            stats.student_interval(values.mean(axis=1), error, 4),
            stats.normal_interval(values.mean(axis=1), error),
        )
    ]
    assert covered[0] == pytest.approx(0.95, abs=0.0066)
    assert covered[1] < 0.89
