"""Gradient norms: closed forms, finite differences, batching."""

import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import sensitivity


def score(operands, z, sign):
    return sign * jnp.sum(jnp.tanh(z * operands), axis=(1, 2))


def test_norms_are_those_of_the_gradient_whatever_the_batch():
    rng = np.random.default_rng(0)
    z, sign = rng.normal(size=(7, 3, 2)).astype(np.float32), np.array([1, -1, 1, 1, -1, 1, 1], np.float32)
    weights = jnp.asarray([0.5, 2.0])
    expected = np.asarray(weights) / np.cosh(z * np.asarray(weights)) ** 2
    for batch in (1, 3, 16):
        norms = sensitivity.gradient_norms(score, z, sign, operands=weights, batch_size=batch)
        np.testing.assert_allclose(norms, np.sqrt((expected**2).sum((1, 2))), rtol=1e-5)
    tokens = sensitivity.gradient_norms(score, z, sign, operands=weights, per_token=True)
    np.testing.assert_allclose(tokens, np.sqrt((expected**2).sum(-1)), rtol=1e-5)


def test_index_is_a_percentile_and_says_so():
    index = sensitivity.lipschitz_index(np.arange(101.0))
    assert (index.value, index.maximum, index.mean, index.n) == (95.0, 100.0, 50.0, 101)
    with pytest.raises(ValueError, match="non-empty"):
        sensitivity.lipschitz_index(np.array([]))
    with pytest.raises(ValueError, match="points is empty"):
        sensitivity.gradient_norms(score, np.ones((0, 2, 2)))
    with pytest.raises(ValueError, match=r"args\[0\] has 2"):
        sensitivity.gradient_norms(score, np.ones((3, 2, 2)), np.ones(2))
