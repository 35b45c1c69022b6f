"""Order-statistic intervals: exact coverage, nesting, equivariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr

from gmijax.stats import quantile_interval


@pytest.mark.parametrize("n", [5, 20, 59, 73, 200, 1000])
@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_coverage_is_exact_and_no_order_statistic_is_wasted(n, quantile, level):
    """The values 1..n are their own ranks; the count below the quantile is binomial, whatever the law."""
    lower, upper = quantile_interval(jnp.arange(1.0, n + 1), quantile=quantile, level=level)
    tail = (1 - level) / 2
    first = int(lower) if np.isfinite(lower) else 0
    last = int(upper) if np.isfinite(upper) else n + 1
    assert (bdtr(first - 1, n, quantile) if first else 0) <= tail < bdtr(first, n, quantile)
    assert (bdtr(last - 1, n, quantile) if last <= n else 1) >= 1 - tail > bdtr(last - 2, n, quantile)


def test_fewer_independent_values_widen_the_interval():
    values = jnp.asarray(np.random.default_rng(0).normal(size=400))
    ends = [quantile_interval(values, quantile=0.7, effective=e) for e in (None, 400, 100, 25)]
    assert ends[0] == ends[1]
    assert ends[1].lower >= ends[2].lower >= ends[3].lower
    assert ends[1].upper <= ends[2].upper <= ends[3].upper


@given(shift=st.floats(-5, 5), seed=st.integers(0, 100))
def test_it_moves_with_the_values_in_any_order(shift, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 50)).astype("f4")
    plain = quantile_interval(jnp.asarray(values), quantile=0.6)
    moved = quantile_interval(jnp.asarray(rng.permuted(values, axis=1) + np.float32(shift)), quantile=0.6)
    for one, other in zip(plain, moved, strict=True):
        np.testing.assert_allclose(one + np.float32(shift), other, rtol=1e-6, atol=1e-6)


def test_under_jit_and_vmap():
    values = jnp.asarray(np.random.default_rng(1).normal(size=(4, 30)), jnp.float32)

    def interval(x):
        return quantile_interval(x, quantile=0.5)

    for one, other in zip(jax.jit(jax.vmap(interval))(values), interval(values), strict=True):
        np.testing.assert_array_equal(one, other)
