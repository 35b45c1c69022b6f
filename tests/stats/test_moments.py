"""Streamed moments: against numpy in float64, whatever the chunks, and where float32 alone would drift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import stats


def pieces(x, size):
    return lambda: (x[start : start + size] for start in range(0, len(x), size))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_any_chunks_give_the_moments_of_the_whole(x64, size):
    x = np.random.default_rng(0).normal(size=(50, 4)) + 3
    moments = stats.moments(pieces(x, size), full=True)
    assert moments.count == 50
    np.testing.assert_allclose(moments.mean.value, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(stats.moments(pieces(x, size)).variance, x.var(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, x.var(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(moments.total_variance, x.var(0, ddof=1).sum(), rtol=1e-12)


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e2), st.integers(0, 1000))
def test_float32_does_not_drift(offset, spread, seed):
    x = (offset + spread * np.random.default_rng(seed).normal(size=(4000, 3))).astype(np.float32)
    wide = x.astype(np.float64)
    moments = stats.moments(pieces(x, 200))
    np.testing.assert_allclose(moments.mean.value, wide.mean(0), rtol=2e-7, atol=1e-7 * spread)
    np.testing.assert_allclose(moments.variance, wide.var(0, ddof=1), rtol=1e-6)


@given(st.integers(0, 1000))
def test_merge_is_update_and_does_not_mind_the_order(seed):
    x = np.random.default_rng(seed).normal(size=(30, 3)).astype(np.float32)
    empty = stats.Moments.empty(3, full=True)
    first, second = empty.update(x[:10]), empty.update(x[10:])
    for merged in (first.merge(second), second.merge(first), first.update(x[10:]), empty.merge(first).merge(second)):
        np.testing.assert_allclose(merged.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-5, atol=1e-6)
        assert merged.count == 30
    assert first.merge(empty).mean.value.tolist() == first.mean.value.tolist()


def test_a_compensated_sum_keeps_what_rounding_takes():
    total = stats.CompensatedSum.of(jnp.float32(1e8))
    for _ in range(1000):
        total = jax.jit(stats.CompensatedSum.add)(total, jnp.float32(1.25))
    assert total.rest == 1250
    assert total.value == np.float32(1e8 + 1250)


def test_moments_vmap():
    x = np.random.default_rng(1).normal(size=(5, 20, 3)).astype(np.float32)
    batched = jax.vmap(lambda rows: stats.Moments.empty(3).update(rows).variance)(x)
    np.testing.assert_allclose(batched, x.var(axis=1, ddof=1), rtol=1e-5)


def test_one_row_has_no_variance():
    assert np.isnan(stats.moments(np.ones((1, 2))).variance).all()
    with pytest.raises(ValueError, match="full=True"):
        _ = stats.moments(np.ones((3, 2))).covariance


def test_halves_take_every_other_row():
    x = np.arange(22.0).reshape(11, 2)
    for source in (stats.chunks(x), stats.chunks(pieces(x, 3)), stats.chunks(pieces(x, 1))):
        for second in (False, True):
            half = np.concatenate([np.asarray(rows) for rows in source.half(second)])
            np.testing.assert_array_equal(half, x[int(second) :: 2])


def test_rows_are_floating_and_finite_values_pass():
    assert next(iter(stats.chunks(np.ones((2, 2), int)))).dtype == np.float32
    assert next(iter(stats.chunks(jnp.ones((2, 2), jnp.bfloat16)))).dtype == jnp.float32
    assert next(iter(stats.chunks(np.ones((2, 2), np.float64)))).dtype == np.float64
    large = np.full((4, 2), np.finfo(np.float32).max)
    assert next(iter(stats.chunks(large))) is large  # its sum overflows, no entry does


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.ones(3), r"rows must be a matrix of rows \(n, d\) with n, d >= 1, got shape \(3,\)"),
        (np.ones((0, 3)), r"got shape \(0, 3\)"),
        (np.ones((2, 2), complex), "must be real numbers, got complex128"),
        (np.array([[1.0, np.nan], [np.inf, 1.0]]), "holds 2 NaN or infinite values, the first at row 0, column 1"),
        (lambda: iter([]), "gave no rows"),
        (lambda: [np.ones((2, 2)), np.ones((2, 3))], "rows, chunk 1, has 3 columns and the first 2"),
        (lambda: [np.ones((2, 2)), np.full((2, 2), np.nan)], "rows, chunk 1, holds 4 NaN"),
    ],
)
def test_bad_rows_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        stats.moments(source, name="rows")


def test_a_spent_iterator_is_told():
    spent = iter([np.ones((2, 2))])
    source = stats.chunks(lambda: spent)
    list(source)
    with pytest.raises(ValueError, match="fresh iterator"):
        list(source)
