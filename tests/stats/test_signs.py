"""The sign-flip test: exact where it can be, of the right size, and defined at the edges."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import stats
from gmijax.stats._signs import _sign_flip_test

KEY = jax.random.key(0)
VALUES = st.lists(st.integers(-5, 5), min_size=7, max_size=7)


def definition(values):
    """All sign patterns, as a loop."""
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    observed = abs(sum(values))
    return sum(abs(sum(s * v for s, v in zip(p, values, strict=True))) >= observed for p in patterns) / len(patterns)


@given(VALUES)
def test_equals_all_patterns(values):
    """Integers, so that ties are many and exact."""
    test = stats.sign_flip_test(np.asarray(values, "f4"), key=KEY)
    assert test.exact
    assert test.n == 7
    np.testing.assert_allclose(test.p_value, definition(values), rtol=1e-6)
    np.testing.assert_allclose(test.value, np.mean(values), rtol=1e-6)


@given(VALUES, st.floats(0.1, 1e4))
def test_sign_scale_and_order_do_not_matter(values, factor):
    values = np.asarray(values, "f4")
    p = stats.sign_flip_test(values, key=KEY).p_value
    for other in (-values, values[::-1], np.float32(factor) * values):
        np.testing.assert_allclose(stats.sign_flip_test(other, key=KEY).p_value, p, rtol=1e-6)


def test_drawn_patterns_estimate_the_exact_test():
    """40 keys with 126 patterns each, which with the data are one fewer than the 128 there are."""
    values = np.random.default_rng(0).normal(0.4, 1, 7).astype("f4")
    exact = stats.sign_flip_test(values, key=KEY)
    drawn = [stats.sign_flip_test(values, draws=126, key=key) for key in jax.random.split(KEY, 40)]
    assert exact.exact
    assert not drawn[0].exact
    p = float(exact.p_value)
    expected = (1 + 126 * p) / 127
    assert abs(np.mean([test.p_value for test in drawn]) - expected) < 4 * np.sqrt(p * (1 - p) / (40 * 126))


def test_edges():
    assert stats.sign_flip_test(np.zeros(7), key=KEY).p_value == 1
    assert stats.sign_flip_test([3.0], key=KEY).p_value == 1  # both signs are as far from 0
    assert stats.sign_flip_test(np.full(7, 0.1, "f4"), key=KEY).p_value == pytest.approx(2 / 128)
    for values, p in ((np.zeros(100, "f4"), 1), (np.full(100, 0.1, "f4"), 1 / 100)):
        assert stats.sign_flip_test(values, draws=99, key=KEY).p_value == pytest.approx(p)


def test_leading_axes_are_tests_of_their_own():
    values = np.random.default_rng(1).normal(size=(2, 3, 30)).astype("f4")
    together = stats.sign_flip_test(values, draws=200, key=KEY)
    assert together.p_value.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(
            stats.sign_flip_test(values[i, j], draws=200, key=KEY).p_value, together.p_value[i, j]
        )


@pytest.mark.slow
def test_vmap_agrees():
    values = np.random.default_rng(1).normal(size=(3, 30)).astype("f4")
    mapped = jax.vmap(lambda v: stats.sign_flip_test(v, draws=200, key=KEY).p_value)(values)
    np.testing.assert_allclose(mapped, stats.sign_flip_test(values, draws=200, key=KEY).p_value)


def test_size_is_right():
    """Under the null the p-value is at most 5 % in at most 5 % of samples: 4 binomial standard errors."""
    values = jax.random.laplace(jax.random.key(5), (1000, 25))
    p = np.asarray(stats.sign_flip_test(values, draws=999, key=KEY).p_value)
    for level in (0.05, 0.2):
        assert abs(np.mean(p <= level) - level) < 4 * np.sqrt(level * (1 - level) / 1000)


def test_few_programs_and_float64(x64):
    before = _sign_flip_test._cache_size()
    for seed in range(3):
        test = stats.sign_flip_test(jnp.asarray(np.random.default_rng(seed).normal(size=23)), draws=50, key=KEY)
    assert _sign_flip_test._cache_size() == before + 1
    assert test.p_value.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((3, 0)), {}, r"at least one value on its last axis, got shape \(3, 0\)"),
        (1.0, {}, "at least one value"),
        ([1.0, np.nan], {}, "NaN or infinite"),
        ([1.0, 2.0], {"draws": 0}, "draws must be at least 1, got 0"),
    ],
)
def test_bad_input_is_told(values, options, message):
    with pytest.raises(ValueError, match=message):
        stats.sign_flip_test(values, key=KEY, **options)
