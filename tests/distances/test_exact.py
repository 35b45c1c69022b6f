"""Exact transport: shifts, brute force, orderings, and the line."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from gmijax import distances


def test_shifted_copies_are_as_far_as_the_shift():
    x = np.random.default_rng(0).normal(size=(10, 3, 4))
    shift = np.zeros((3, 4))
    shift[1, 2] = 0.7
    assert distances.w1(x, x + shift, given="c", space="z").value == pytest.approx(0.7)
    assert distances.w_inf(x, x + shift) == pytest.approx(0.7)
    assert distances.w1(x, x, given="c", space="z").value == 0


def test_against_all_matchings():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)) + 1
    costs = [np.linalg.norm(x - y[list(order)], axis=1) for order in itertools.permutations(range(5))]
    assert distances.w1(x, y, given="c", space="z").value == pytest.approx(min(c.mean() for c in costs))
    assert distances.w_inf(x, y) == pytest.approx(min(c.max() for c in costs))


def test_atoms_that_split():
    x, y = np.array([[0.0], [4.0]]), np.array([[0.0], [1.0], [4.0], [4.0]])
    assert distances.w1(x, y, given="c", space="z").value == pytest.approx(0.25)
    assert distances.diameter(np.concatenate([x, y])) == 4.0


@given(st.integers(0, 10_000))
def test_the_line(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=6), rng.normal(size=4) * 2
    with jax.enable_x64(True):
        first = float(distances.w1_line(jnp.asarray(x), jnp.asarray(y)))
        second = float(distances.w2_line(jnp.asarray(x), jnp.asarray(y)))
        largest = float(distances.w_inf_line(jnp.asarray(x), jnp.asarray(y)))
    assert first == pytest.approx(wasserstein_distance(x, y), abs=1e-12)
    assert first <= second + 1e-12
    assert second <= largest + 1e-12
    repeated = distances.w_inf(np.repeat(x, 2)[:, None], np.repeat(y, 3)[:, None])
    assert largest == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), "must divide"),
        (np.ones((2, 2)), np.ones((2, 3)), "not one space"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), "NaN"),
        (np.ones((0, 2)), np.ones((2, 2)), "x must hold points"),
        (np.ones((5000, 1)), np.ones((5000, 1)), "subsample"),
    ],
)
def test_bad_input_is_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        distances.w1(x, y, given="c", space="z")
