import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax.rates._calibration import fit_calibration

K = 4


def draw(seed, n=300, gap=1.5, dtype=np.float64):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    scores = rng.normal(size=(n, K)) + gap * np.eye(K)[labels] + rng.normal(size=K)
    return scores.astype(dtype), (np.eye(K)[labels] / n).astype(dtype)


def cross_entropy(scores, weights, scale, biases):
    logits = scale * scores + biases
    return -np.sum(weights * np.asarray(jax.nn.log_softmax(logits, axis=-1)))


def test_gradient_vanishes_at_the_optimum():
    scores, weights = draw(0)
    with jax.enable_x64(True):
        fit = fit_calibration(scores, weights)
        slopes = jax.grad(lambda s, a: -jnp.sum(weights * jax.nn.log_softmax(s * scores + a, axis=-1)), argnums=(0, 1))(
            fit.scale, fit.biases
        )
        assert fit.converged
        assert not fit.separable
        assert abs(slopes[0]) < 1e-9
        np.testing.assert_allclose(slopes[1], 0, atol=1e-9)
        np.testing.assert_allclose(fit.loss, cross_entropy(scores, weights, fit.scale, fit.biases), rtol=1e-12)


def test_float32_agrees_with_float64():
    scores, weights = draw(1)
    single = fit_calibration(scores.astype(np.float32) + 1000, weights.astype(np.float32))
    with jax.enable_x64(True):
        double = fit_calibration(scores, weights)
    assert single.loss.dtype == jnp.float32
    np.testing.assert_allclose(single.loss, double.loss, rtol=1e-5)
    np.testing.assert_allclose(single.scale, double.scale, rtol=1e-3)


def test_offsets_and_units_do_not_matter():
    scores, weights = draw(2)
    rng = np.random.default_rng(5)
    moved = 7 * scores + 50 * rng.normal(size=(len(scores), 1)) + 3 * rng.normal(size=K)
    with jax.enable_x64(True):
        one, other = (fit_calibration(values, weights, ridge=0.01) for values in (scores, moved))
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-10)
        np.testing.assert_allclose(one.scale, 7 * other.scale, rtol=1e-7)


def test_a_score_that_points_the_wrong_way_or_nowhere_gets_scale_zero():
    scores, weights = draw(3)
    entropy = -np.sum(weights.sum(0) * np.log(weights.sum(0)))
    with jax.enable_x64(True):
        for values in (-scores, np.full_like(scores, -3.3), np.repeat(scores[:, :1], K, axis=1)):
            fit = fit_calibration(values, weights)
            assert fit.scale == 0
            assert fit.converged
            assert not fit.separable
            np.testing.assert_allclose(fit.loss, entropy, rtol=1e-12)


def test_separable_scores_are_reported_and_a_ridge_tames_them():
    scores, weights = draw(4, gap=100.0)
    with jax.enable_x64(True):
        fit = fit_calibration(scores, weights)
        assert fit.separable
        assert fit.converged
        assert 0 <= fit.loss < 1e-12
        tamed = fit_calibration(scores, weights, ridge=1e-2)
        assert tamed.converged
        assert not tamed.separable
        assert 0 < tamed.scale < fit.scale


def test_a_prior_is_only_an_offset_of_the_biases():
    scores, weights = draw(6)
    log_prior = np.log([0.1, 0.2, 0.3, 0.4])
    with jax.enable_x64(True):
        plain = fit_calibration(scores, weights)
        offset = fit_calibration(scores, weights, log_prior=log_prior)
        np.testing.assert_allclose(plain.loss, offset.loss, rtol=1e-12)
        difference = np.asarray(plain.biases - offset.biases) - log_prior
        np.testing.assert_allclose(difference, difference[0], atol=1e-6)


def test_a_label_without_weight_is_left_out():
    scores, weights = draw(7)
    wider = np.concatenate([scores, 100 + scores[:, :1]], axis=1)
    padded = np.concatenate([weights, np.zeros((len(weights), 1))], axis=1)
    with jax.enable_x64(True):
        fit, wide = fit_calibration(scores, weights), fit_calibration(wider, padded)
        np.testing.assert_allclose(wide.loss, fit.loss, rtol=1e-10)
        assert wide.biases[-1] == -jnp.inf


def test_weight_on_a_score_of_minus_infinity_costs_infinitely():
    scores, weights = draw(8)
    scores[0, int(weights[0].argmax())] = -np.inf
    assert fit_calibration(scores, weights).loss == jnp.inf


def test_contexts_share_the_scale_and_keep_their_biases():
    (one, first), (two, second) = draw(9), draw(10)
    two, shift = 2 * two, np.array([5.0, 0.0, -5.0, 1.0])
    with jax.enable_x64(True):
        joint = fit_calibration(np.stack([one, two + shift]), np.stack([first, second]) / 2)
        apart = [fit_calibration(*pair) for pair in ((one, first), (two, second))]
        assert joint.biases.shape == (2, K)
        assert apart[1].scale < joint.scale < apart[0].scale
        assert joint.loss > sum(fit.loss for fit in apart) / 2


def test_vmap_equals_a_loop():
    pairs = [draw(seed) for seed in (11, 12)]
    stacked = [np.stack(arrays) for arrays in zip(*pairs, strict=True)]
    with jax.enable_x64(True):
        together = jax.vmap(fit_calibration)(*stacked)
        for index, pair in enumerate(pairs):
            alone = fit_calibration(*pair)
            np.testing.assert_allclose(together.scale[index], alone.scale, rtol=1e-7)
            np.testing.assert_allclose(together.loss[index], alone.loss, rtol=1e-12)


@pytest.mark.slow
def test_a_hundred_labels_and_many_rows():
    rng = np.random.default_rng(0)
    n, k = 50_000, 100
    labels = rng.integers(0, k, n)
    scores = rng.normal(size=(n, k)).astype(np.float32)
    scores[np.arange(n), labels] += 2
    weights = np.zeros((n, k), np.float32)
    weights[np.arange(n), labels] = 1 / n
    fit = fit_calibration(3 * scores, weights)
    # The scores are Gaussian log-likelihood ratios at scale 2 up to a function of the row.
    assert fit.converged
    np.testing.assert_allclose(fit.scale, 2 / 3, rtol=0.02)
