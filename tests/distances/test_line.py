"""Transport on the line: against scipy and the matchings, under jit, vmap and grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from gmijax import distances

LINE = (distances.w1_line, distances.w2_line, distances.w_inf_line)
plain = jax.jit(lambda x, y: jnp.stack([distance(x, y) for distance in LINE]))
weighted = jax.jit(lambda x, y, u, v: jnp.stack([distance(x, y, u, v) for distance in LINE]))


@given(st.integers(0, 10_000))
def test_uniform_samples_of_any_sizes(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=6), rng.normal(size=4) * 2
    with jax.enable_x64(True):
        first, second, largest = (float(d) for d in plain(x, y))
    coupled = np.abs(np.repeat(np.sort(x), 2) - np.repeat(np.sort(y), 3))
    assert first == pytest.approx(wasserstein_distance(x, y), abs=1e-12)
    assert second == pytest.approx(np.sqrt(np.mean(coupled**2)), abs=1e-12)
    assert largest == pytest.approx(coupled.max(), abs=1e-12)
    assert largest == pytest.approx(distances.w_inf(np.repeat(x, 2)[:, None], np.repeat(y, 3)[:, None]), abs=1e-12)
    assert first <= second + 1e-12 <= largest + 2e-12


@given(st.integers(0, 10_000))
def test_weights(seed):
    rng = np.random.default_rng(seed)
    x, y, counts = rng.normal(size=6), rng.normal(size=4), rng.integers(0, 3, 6)
    counts[0] = 1
    masses = rng.dirichlet(np.ones(4))
    with jax.enable_x64(True):
        assert float(weighted(x, y, counts, masses)[0]) == pytest.approx(
            wasserstein_distance(x, y, counts, masses), abs=1e-12
        )
        np.testing.assert_allclose(weighted(x, y, np.full(6, 0.1), np.full(4, 0.7)), plain(x, y), atol=1e-12)
        expected = distances.w_inf(np.repeat(x, 4 * counts)[:, None], np.repeat(y, counts.sum())[:, None])
        assert float(weighted(x, y, counts, np.ones(4))[2]) == pytest.approx(expected, abs=1e-12)


def test_no_mass_is_made_of_rounding():
    """0.1 + 0.2 is not 0.3 in binary, but nothing moves from 0 to 10."""
    with jax.enable_x64(True):
        farthest = distances.w_inf_line(
            *(np.array(part) for part in ([0.0, 0, 10], [0.0, 10], [0.1, 0.2, 0.7], [0.3, 0.7]))
        )
    assert float(farthest) == 0


def test_shifts_and_batches():
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    masses = np.arange(1.0, 9.0, dtype=np.float32)
    np.testing.assert_allclose(plain(x, x + 0.5), np.full((3, 3), 0.5), rtol=1e-6)
    np.testing.assert_allclose(weighted(x, x + 0.5, masses, masses), np.full((3, 3), 0.5), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(plain)(x, x + 0.5), np.full((3, 3), 0.5), rtol=1e-6)


def test_integers_are_points_and_no_mass_is_no_distance():
    assert plain(np.array([0, 2]), np.array([1, 3])).tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(weighted(np.arange(3.0), np.arange(3.0), np.zeros(3), np.ones(3))).all()


def test_many_points_do_not_overflow_the_index():
    """49 999 x 50 000 pieces of the common unit exceed a 32-bit integer."""
    x = np.linspace(0, 1, 50_000, dtype=np.float32)
    assert float(distances.w1_line(x, x[:-1] + 3)) == pytest.approx(3.0, abs=1e-4)
    assert float(distances.w_inf_line(x, x[:-1] + 3)) == pytest.approx(3.0, abs=1e-4)


def test_gradients_are_finite_where_laws_agree():
    x = jnp.array([0.0, 1.0, 3.0])
    for distance in LINE:
        assert np.isfinite(jax.grad(distance)(x, x)).all()
    np.testing.assert_allclose(jax.grad(distances.w1_line)(x + 0.5, x), np.full(3, 1 / 3), rtol=1e-6)
