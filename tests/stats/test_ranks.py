"""Rank correlation: equal to scipy's, with intervals that cover in both meanings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from gmijax import stats
from gmijax.stats._ranks import _rank_correlation

KEY = jax.random.key(0)
TIED = st.lists(st.integers(0, 4), min_size=9, max_size=9)


@given(TIED, TIED)
def test_equals_scipy_with_ties(x, y):
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    got = stats.rank_correlation(np.asarray(x, "f4"), np.asarray(y, "f4"), draws=9, key=KEY)
    np.testing.assert_allclose(got.value, scipy.stats.spearmanr(x, y).statistic, atol=2e-6)
    assert got.interval.lower <= got.value + 1e-6
    assert got.value <= got.interval.upper + 1e-6


@given(TIED, TIED)
def test_only_order_matters(x, y):
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    x, y = np.asarray(x, "f4"), np.asarray(y, "f4")
    got = stats.rank_correlation(x, y, draws=9, key=KEY)
    np.testing.assert_allclose(stats.rank_correlation(np.exp(x), y**3, draws=9, key=KEY).value, got.value, atol=1e-6)
    np.testing.assert_allclose(stats.rank_correlation(-x, y, draws=9, key=KEY).value, -got.value, atol=1e-6)
    np.testing.assert_allclose(stats.rank_correlation(y, x, draws=9, key=KEY).value, got.value, atol=1e-6)


def test_perfect_order_keeps_a_width():
    x = np.arange(6.0)
    got = stats.rank_correlation(x, x, draws=999, key=KEY)
    assert got.value == pytest.approx(1)
    assert got.interval.upper == 1
    assert 0.2 < got.interval.lower < 0.9
    reverse = stats.rank_correlation(x, -x, draws=999, key=KEY)
    np.testing.assert_allclose(reverse.interval, [-1, -got.interval.lower], rtol=1e-6)


def test_p_value_is_that_of_all_permutations():
    """n = 5: 120 orders, of which 2 are as far as a perfect one."""
    got = stats.rank_correlation(np.arange(5.0), np.arange(5.0) ** 2, draws=20000, key=KEY)
    assert abs(float(got.p_value) - 2 / 120) < 4 * np.sqrt(2 / 120 / 20000)


def test_interval_over_replicates_is_the_hull_of_two():
    rng = np.random.default_rng(0)
    x, y = np.arange(12.0), np.arange(12.0) + rng.normal(0, 2, 12)
    replicates = y + rng.normal(0, 1, (400, 12))
    got = stats.rank_correlation(x, y, replicates=replicates, key=KEY, draws=9)
    again = [scipy.stats.spearmanr(x, row).statistic for row in replicates]
    low, high = np.quantile(again, [0.025, 0.975])
    value = scipy.stats.spearmanr(x, y).statistic
    np.testing.assert_allclose(
        got.interval, [min(low, 2 * value - high), min(1, max(high, 2 * value - low))], atol=1e-5
    )
    assert got.interval_over == "replicates"


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_interval_over_pairs_covers(correlation):
    """Normal pairs, whose rank correlation is 6 / pi asin(r / 2); 92 to 98 % of 600 at n = 30."""
    truth = 6 / np.pi * np.arcsin(correlation / 2)

    @jax.jit
    def one(key):
        x, noise = jax.random.normal(key, (2, 30))
        y = correlation * x + np.sqrt(1 - correlation**2) * noise
        ends = stats.rank_correlation(x, y, draws=1, key=key).interval
        return (ends.lower <= truth) & (truth <= ends.upper)

    covered = jax.lax.map(one, jax.random.split(jax.random.key(2), 600))
    assert 0.92 < np.mean(covered) < 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("correlation", "spread", "least", "most"),
    [(0.7, 1.0, 0.92, 0.98), (0.7, 4.0, 0.92, 0.98), (0.95, 4.0, 0.92, 0.98), (0.0, 0.5, 0.90, 0.96)],
)
def test_interval_over_replicates_covers(correlation, spread, least, most):
    """Fixed modes whose values are means of 100 samples, 500 repeats; near ties are why the last covers less."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=20)
    means = jnp.asarray(correlation * x + np.sqrt(1 - correlation**2) * rng.normal(size=20))
    truth = scipy.stats.spearmanr(x, np.asarray(means)).statistic

    @jax.jit
    def one(key):
        key, key_weights = jax.random.split(key)
        samples = means + spread * jax.random.normal(key, (100, 20))
        weights = stats.exponential_weights(400, 100, key=key_weights)
        replicates = weights @ samples / jnp.sum(weights, 1, keepdims=True)
        ends = stats.rank_correlation(x, jnp.mean(samples, 0), replicates=replicates, draws=1, key=key).interval
        return (ends.lower <= truth + 1e-6) & (truth - 1e-6 <= ends.upper)

    covered = jax.lax.map(one, jax.random.split(jax.random.key(3), 500))
    assert least < np.mean(covered) < most


def test_jit_agrees_and_compiles_once():
    rng = np.random.default_rng(0)
    before = _rank_correlation._cache_size()
    for _ in range(3):
        x, y = rng.normal(size=(2, 17)).astype("f4")
        plain = stats.rank_correlation(x, y, draws=20, key=KEY)
    assert _rank_correlation._cache_size() == before + 1
    jitted = jax.jit(lambda x, y: stats.rank_correlation(x, y, draws=20, key=KEY))(x, y)
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.arange(3.0), np.arange(3.0), {}, "at least 4"),
        (np.arange(5.0), np.arange(4.0), {}, r"got \(5,\) and \(4,\)"),
        (np.ones(5), np.arange(5.0), {}, "x is constant"),
        (np.arange(5.0), np.ones(5), {}, "y is constant"),
        (np.arange(5.0), [0, 1, 2, np.inf, 3], {}, "y holds NaN or infinite"),
        (np.arange(5.0), np.arange(5.0), {"replicates": np.ones((3, 4))}, r"replicates must have shape"),
        (np.arange(5.0), np.arange(5.0), {"replicates": np.ones((3, 5))}, "replicates is constant"),
        (np.arange(5.0), np.arange(5.0), {"level": 1.0}, "level must lie strictly"),
        (np.arange(5.0), np.arange(5.0), {"draws": 0}, "draws must be at least 1"),
    ],
)
def test_bad_input_is_told(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        stats.rank_correlation(x, y, key=KEY, **options)
