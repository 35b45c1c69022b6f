"""Gradient norms: closed forms, finite differences, batching; what an index is and is not."""

import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import bounds, sensitivity
from gmijax.distances import W1


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


def test_linear_score_has_the_norm_of_its_weights():
    weights = np.random.default_rng(1).normal(size=(4, 5))
    points = np.random.default_rng(2).normal(size=(6, 4, 5)).astype(np.float32)
    norms = sensitivity.gradient_norms(lambda w, z: jnp.einsum("btd,td->b", z, w), points, operands=weights)
    np.testing.assert_allclose(norms, np.linalg.norm(weights), rtol=1e-6)


def test_norms_match_finite_differences(x64):
    rng = np.random.default_rng(3)
    weights, points, step = rng.normal(size=(6, 6)), rng.normal(size=(4, 2, 3)), 1e-6

    def nonlinear(w, z):
        return jnp.log(jnp.sum(jnp.exp(z.reshape(len(z), -1) @ w), axis=1))

    moves = step * np.eye(6).reshape(6, 2, 3)
    slopes = [np.asarray(nonlinear(weights, points + m) - nonlinear(weights, points - m)) / (2 * step) for m in moves]
    norms = sensitivity.gradient_norms(nonlinear, points, operands=weights, batch_size=3)
    np.testing.assert_allclose(norms, np.linalg.norm(slopes, axis=0), rtol=1e-7)


def test_bfloat16_gradients_are_summed_in_float32():
    points = jnp.ones((2, 64, 64), jnp.bfloat16)
    norms = sensitivity.gradient_norms(lambda _, z: jnp.sum(z, axis=(1, 2)), points)
    assert norms.dtype == np.float32
    np.testing.assert_allclose(norms, 64.0)


def test_index_is_a_percentile_and_says_so():
    index = sensitivity.lipschitz_index(np.arange(101.0))
    assert (index.value, index.maximum, index.mean, index.n, index.kind) == (95.0, 100.0, 50.0, 101, "sampled")
    bound = bounds.messages(1.0, index.constant("z"), W1(0.1, 1, 1, "(c, y)", "z"))
    assert (bound.value, bound.kind) == (pytest.approx(19.0), "index")


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="non-empty"):
        sensitivity.lipschitz_index(np.array([]))
    with pytest.raises(ValueError, match="quantile must lie"):
        sensitivity.lipschitz_index(np.ones(3), quantile=95)
    with pytest.raises(ValueError, match="points is empty"):
        sensitivity.gradient_norms(score, np.ones((0, 2, 2)))
    with pytest.raises(ValueError, match=r"args\[0\] has 2"):
        sensitivity.gradient_norms(score, np.ones((3, 2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="batch_size must be"):
        sensitivity.gradient_norms(score, np.ones((3, 2, 2)), batch_size=0)
