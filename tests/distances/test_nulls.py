"""Permutation p-values are uniform where there is no difference: 500 same-law pairs, n = m = 64, every distance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from gmijax import distances

pytestmark = pytest.mark.slow

PAIRS, ROWS, DIMENSIONS, PERMUTATIONS = 500, 64, 3, 199
TRACED = {
    "mmd2": distances.mmd2,
    "mmd2, block": partial(distances.mmd2, estimator="block", block_size=16),
    "energy": distances.energy,
    "energy, projected": partial(distances.energy, projection=2),
    "sinkhorn": partial(distances.sinkhorn, epsilon=1.0, tolerance=1e-3),
    "sinkhorn divergence": partial(distances.sinkhorn_divergence, epsilon=1.0, tolerance=1e-3),
    "gaussian W2": distances.gaussian_w2,
    "cka": distances.cka,
    "cka, rbf": partial(distances.cka, kernel="rbf"),
    "cka, biased": partial(distances.cka, debiased=False),
}
HOST = {
    "W1": partial(distances.w1, interval="dual"),
    "sliced W1": partial(distances.sliced_w1, directions=8),
    "max-sliced W1": partial(distances.max_sliced_w1, starts=2, iterations=3),
}


def laws(seed):
    """Exponential coordinates of different scales: skewed, so that no symmetry helps."""
    samples = jax.random.exponential(jax.random.key(seed), (PAIRS, 2, ROWS, DIMENSIONS))
    return samples * jnp.asarray([1.0, 0.5, 0.2])


def assert_uniform(p_values):
    p_values = np.asarray(p_values, np.float64)
    assert p_values.shape == (PAIRS,)
    # A p-value takes the values k / 200; spread evenly below its own value it is exactly uniform.
    spread = p_values - np.random.default_rng(0).uniform(size=PAIRS) / (1 + PERMUTATIONS)
    assert kstest(spread, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", list(TRACED))
def test_p_values_are_uniform(name):
    def one(pair_and_key):
        (x, y), key = pair_and_key
        return TRACED[name](x, y, permutations=PERMUTATIONS, key=key).p_value

    keys = jax.random.split(jax.random.key(1), PAIRS)
    assert_uniform(jax.jit(lambda pairs: jax.lax.map(one, pairs))((laws(0), keys)))


@pytest.mark.parametrize("name", list(HOST))
def test_p_values_on_the_host_are_uniform(name):
    keys = jax.random.split(jax.random.key(2), PAIRS)
    pairs = np.asarray(laws(3))
    assert_uniform(
        [HOST[name](x, y, permutations=PERMUTATIONS, key=key).p_value for (x, y), key in zip(pairs, keys, strict=True)]
    )
