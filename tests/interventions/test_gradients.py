"""Gradients along modes: known magnitudes, ratios and order, and intervals that cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gmijax import interventions as iv
from gmijax.interventions import _gradients

N, T, D, K = 40, 3, 10, 8
KEY = jax.random.key(0)
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(D, K)))[0].T.astype("f4")
ALPHA = np.array([0.1, 0.9, 0.3, 1.5, 0.2, 0.8, 0.6, 0.05], "f4")


def gradients(seed=0, shape=(N, T)):
    return np.random.default_rng(seed).normal(size=(*shape, D)).astype("f4")


@given(st.integers(0, 1000), st.booleans())
def test_equals_its_definition(seed, whole):
    g = gradients(seed)
    mask = np.ones((N, T), bool) if whole else np.random.default_rng(seed).random((N, T)) < 0.5
    mask[:, 0] = True
    got = iv.gradient_projection(g, DIRECTIONS, ALPHA, mask=mask, draws=20, key=KEY)
    by_sample = np.array(
        [
            [np.mean([abs(float(g[i, t] @ u)) for t in range(T) if mask[i, t]]) for u in DIRECTIONS.astype("f8")]
            for i in range(N)
        ]
    )
    means = by_sample.mean(0)
    np.testing.assert_allclose(got.magnitudes, means, rtol=2e-5)
    np.testing.assert_allclose(got.standard_errors, by_sample.std(0, ddof=1) / np.sqrt(N), rtol=1e-4)
    aligned = ALPHA >= 0.5
    np.testing.assert_array_equal(got.text_aligned, aligned)
    np.testing.assert_allclose(got.ratio, means[aligned].mean() / means[~aligned].mean(), rtol=2e-5)
    np.testing.assert_allclose(got.correlation.value, scipy.stats.spearmanr(ALPHA, means).statistic, atol=1e-5)
    assert got.interval.lower < got.ratio < got.interval.upper


@given(st.floats(0.01, 100), st.integers(0, 100))
def test_the_unit_of_the_states_does_not_matter(factor, seed):
    g = gradients(seed)
    first = iv.gradient_projection(g, DIRECTIONS, ALPHA, draws=20, key=KEY)
    second = iv.gradient_projection(np.float32(factor) * g, DIRECTIONS, ALPHA, draws=20, key=KEY)
    np.testing.assert_allclose(second.magnitudes, factor * first.magnitudes, rtol=1e-5)
    np.testing.assert_allclose(second.ratio, first.ratio, rtol=1e-5)
    np.testing.assert_allclose(second.interval, first.interval, rtol=1e-4)


def test_a_decoder_that_reads_only_some_modes_shows():
    """l(z) = sum of squares along the text-aligned modes: no gradient along the others, but for a little noise."""
    read = DIRECTIONS[ALPHA >= 0.5]
    z = gradients(3)
    g = jax.grad(lambda x: 0.5 * jnp.sum((x @ read.T) ** 2))(z)
    got = iv.gradient_projection(g + 1e-3 * gradients(4), DIRECTIONS, ALPHA, draws=50, key=KEY)
    assert got.ratio > 300
    assert got.correlation.value >= 1 - 6 * 40 / (8 * 63) - 1e-6  # whatever the order among equals
    assert got.n == N


def test_pooled_gradients_jit_and_one_program():
    g = gradients(0, (N,))
    plain = iv.gradient_projection(g, DIRECTIONS, ALPHA, draws=20, key=KEY)
    before = _gradients._compare._cache_size()
    iv.gradient_projection(g + 1, DIRECTIONS, ALPHA[::-1], draws=20, key=KEY)
    assert _gradients._compare._cache_size() == before
    jitted = jax.jit(lambda x: iv.gradient_projection(x, DIRECTIONS, ALPHA, draws=20, key=KEY))(g)
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.slow
def test_the_ratio_s_interval_covers():
    """Normal gradients of known spread along each mode; 92 to 98 % of 500 samples of 40."""
    spreads = jnp.asarray(np.where(ALPHA >= 0.5, 1.5, 1.0) * np.linspace(0.8, 1.2, K), jnp.float32)
    aligned = ALPHA >= 0.5
    truth = spreads[aligned].mean() / spreads[~aligned].mean()

    @jax.jit
    def one(key):
        g = (jax.random.normal(key, (N, K)) * spreads) @ DIRECTIONS
        ends = iv.gradient_projection(g, DIRECTIONS, ALPHA, draws=2, key=key).interval
        return (ends.lower <= truth) & (truth <= ends.upper)

    covered = jax.lax.map(one, jax.random.split(jax.random.key(1), 500))
    assert 0.92 < np.mean(covered) < 0.98


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": gradients()[:1]}, "n >= 2"),
        ({"gradients": gradients()[0, 0]}, "n >= 2"),
        ({"gradients": gradients()[..., :9]}, "directions has width 10 and the states have width 9"),
        ({"gradients": np.full((N, T, D), np.inf)}, "NaN or infinite"),
        ({"gradients": np.zeros((N, T, D))}, "zero along all modes of one group"),
        ({"directions": DIRECTIONS + 0.1}, "not orthonormal"),
        ({"alpha": ALPHA[:5]}, r"alpha must have shape \(8,\), one a direction, got \(5,\)"),
        ({"alpha": ALPHA * np.nan}, "alpha holds NaN"),
        ({"alpha": np.full(K, 0.7)}, "threshold = 0.5 leaves one group without a mode: alpha runs from 0.7 to 0.7"),
        ({"threshold": 0.01}, "leaves one group without a mode"),
        ({"directions": DIRECTIONS[:3], "alpha": ALPHA[:3]}, "at least 4"),
        ({"mask": np.arange(N)[:, None] + np.zeros((1, T)) > 0}, "matches no position of sample 0"),
        ({"level": 0.0}, "level must lie strictly"),
        ({"draws": 1}, r"replicates must have shape \(at least 2, 8\)"),
    ],
)
def test_bad_input_is_told(changes, message):
    given_ = {"gradients": gradients(), "directions": DIRECTIONS, "alpha": ALPHA, "draws": 20, **changes}
    with pytest.raises(ValueError, match=message):
        iv.gradient_projection(**given_, key=KEY)
