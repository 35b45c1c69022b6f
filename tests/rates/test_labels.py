"""Rates over known alternatives, and the bootstrap: optima by scipy, closed forms, orderings, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp

from gmijax import rates


def gaussian_classes(n, *, bias=0.0, temperature=1.0, seed=0):
    """Two classes N(-1, 1), N(1, 1) and a softmax decoder: the setting of the closed-form label channels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    z = rng.normal(size=n) + 2 * labels - 1
    logits = np.stack([-((z + 1) ** 2) / 2, -((z - 1) ** 2) / 2 + bias], 1) / temperature
    return log_softmax(logits, axis=1), labels


def random_table(seed, n=30, k=4, strength=1.0):
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(k), rng.integers(0, k, n - k))
    return rng.normal(size=(n, k)) + strength * np.eye(k)[labels], labels


def curve(scores, labels, prior, s):
    own = scores[np.arange(len(labels)), labels]
    return s * own - logsumexp(s * scores + np.log(prior), axis=1)


def test_gmi_labels_is_the_supremum(x64):
    scores, labels = random_table(0)
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    rate = rates.gmi_labels(scores, labels, prior=prior, scale="in-sample")
    best = minimize_scalar(lambda s: -curve(scores, labels, prior, s).mean(), bounds=(0, 10), method="bounded")
    np.testing.assert_allclose(rate.value, -best.fun, atol=1e-9)
    np.testing.assert_allclose(rate.scale, best.x, rtol=1e-4)
    np.testing.assert_allclose(rate.at_one, curve(scores, labels, prior, 1).mean(), atol=1e-12)
    by_row = rates.gmi_labels(scores, labels, prior=np.tile(prior, (30, 1)), scale="in-sample")
    np.testing.assert_allclose(by_row.value, rate.value, atol=1e-12)


def test_gmi_labels_is_entropy_less_scaled_cross_entropy(x64):
    """F7 with the empirical prior: H(Y) - min_s CE(softmax(s l + log P(y)))."""
    scores, labels = random_table(1)
    frequency = np.bincount(labels) / len(labels)

    def cross_entropy(s):
        return -log_softmax(s * scores + np.log(frequency), axis=1)[np.arange(30), labels].mean()

    entropy = -(frequency * np.log(frequency)).sum()
    best = minimize_scalar(cross_entropy, bounds=(0, 10), method="bounded")
    rate = rates.gmi_labels(scores, labels, scale="in-sample")
    np.testing.assert_allclose(rate.value, entropy - best.fun, atol=1e-9)


def test_lm_rate_is_entropy_less_calibrated_cross_entropy(x64):
    scores, labels = random_table(2, n=60, strength=0.7)
    frequency = np.bincount(labels) / len(labels)

    def cross_entropy(parameters):
        logits = np.exp(parameters[0]) * scores + np.append(0, parameters[1:])
        return -log_softmax(logits, axis=1)[np.arange(60), labels].mean()

    best = minimize(cross_entropy, np.zeros(4), method="BFGS", options={"gtol": 1e-10})
    rate = rates.lm_rate(scores, labels, fit="in-sample")
    np.testing.assert_allclose(rate.value, -(frequency * np.log(frequency)).sum() - best.fun, atol=1e-8)
    np.testing.assert_allclose(rate.scale, np.exp(best.x[0]), rtol=1e-4)
    assert rate.converged


@given(st.integers(0, 10_000), st.floats(0, 2))
def test_ladder_is_ordered_in_sample(seed, strength):
    """I(1) <= GMI <= LM <= H(Y), each 0 or more but the first (THEORY.md, section 2)."""
    scores, labels = random_table(seed, strength=strength)
    with jax.enable_x64(True):
        gmi = rates.gmi_labels(scores, labels, scale="in-sample")
        lm = rates.lm_rate(scores, labels, fit="in-sample")
        at_one, gmi, lm = float(gmi.at_one), float(gmi.value), float(lm.value)
    frequency = np.bincount(labels, minlength=4) / len(labels)
    entropy = -(frequency * np.log(frequency)).sum()
    assert at_one <= gmi + 1e-12
    assert -1e-12 <= gmi <= lm + 1e-9
    assert lm <= entropy + 1e-9


@given(st.integers(0, 10_000), st.floats(0.05, 20), st.floats(-20, 20))
def test_invariances(seed, slope, shift):
    """F8: over messages a positive factor and a function of the input change nothing; LM ignores label biases."""
    scores, labels = random_table(seed)
    rows = np.random.default_rng(seed + 1).normal(size=(30, 1)) * shift
    with jax.enable_x64(True):
        before = rates.gmi_labels(scores, labels)
        after = rates.gmi_labels(slope * scores + rows, labels)
        np.testing.assert_allclose(after.value, before.value, atol=1e-7)
        np.testing.assert_allclose(after.standard_error, before.standard_error, atol=1e-7)
        np.testing.assert_allclose(after.p_value, before.p_value, atol=1e-7)
        lm = rates.lm_rate(scores, labels, fit="in-sample")
        biased = rates.lm_rate(scores + np.array([0.0, shift, 1, -2]), labels, fit="in-sample")
        np.testing.assert_allclose(biased.value, lm.value, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "gmi", "lm"),
    [({}, 0.3368308, 0.3368308), ({"temperature": 3.0}, 0.3368308, 0.3368308), ({"bias": 2.0}, 0.1988, 0.3368308)],
)
def test_estimates_cover_the_known_rates(options, gmi, lm):
    """Within 99 % intervals on 10,000 samples of the label channels c2_cal, c2_T3, c2_bias."""
    scores, labels = gaussian_classes(10_000, **options)
    rate = rates.gmi_labels(scores, labels, prior=[0.5, 0.5], level=0.99)
    assert rate.interval.lower <= gmi <= rate.interval.upper
    assert rate.standard_error < 0.01
    rate = rates.lm_rate(scores, labels, prior=[0.5, 0.5], level=0.99)
    assert rate.interval.lower <= lm <= rate.interval.upper


def test_decoder_that_is_always_right_reaches_the_entropy(x64):
    labels = np.arange(40) % 4
    rate = rates.gmi_labels(3.0 * np.eye(4)[labels], labels)
    np.testing.assert_allclose(rate.value, np.log(4), atol=1e-12)
    assert np.isinf(rate.scale)
    lm = rates.lm_rate(3.0 * np.eye(4)[labels], labels, fit="in-sample")
    np.testing.assert_allclose(lm.value, np.log(4), atol=1e-9)


def test_label_unseen_in_one_fold_costs_nothing_infinite():
    scores, labels = random_table(3, n=25)
    labels = np.where(labels == 3, 0, labels)
    labels[7] = 3  # a single example: in one fold only
    rate = rates.lm_rate(scores, labels)
    assert np.isfinite(rate.value)
    assert np.isfinite(rate.standard_error)


@pytest.mark.parametrize("estimator", [rates.gmi_labels, rates.lm_rate])
def test_jit_and_vmap(estimator):
    scores, labels = random_table(4)
    batch = jnp.asarray(np.stack([scores, 2 * scores]), jnp.float32)
    together = jax.jit(jax.vmap(estimator, in_axes=(0, None)))(batch, jnp.asarray(labels))
    np.testing.assert_allclose(together.value[0], estimator(batch[0], labels).value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(together.value[1], together.value[0], rtol=1e-3)


def test_gradient_ignores_functions_of_the_row(strict):
    scores, labels = random_table(4)
    batch = jnp.asarray(scores[None], jnp.float32)
    value, gradient = jax.value_and_grad(lambda s: rates.gmi_labels(s, labels, scale="in-sample").value)(batch[0])
    np.testing.assert_allclose(value, rates.gmi_labels(batch[0], labels, scale="in-sample").value, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(gradient, axis=1), 0, atol=1e-7)  # a function of the row changes nothing


@pytest.mark.parametrize(
    ("scores", "labels", "options", "message"),
    [
        (np.ones((4, 3)), [0, 1, 2, 3], {}, r"labels\[3\] = 3 is outside the 3 label columns"),
        (np.ones((4, 3)), [0, 1, -1, 2], {}, r"labels\[2\] = -1"),
        (np.ones((4, 3)), [0, 1], {}, "shape"),
        (np.full((4, 3), np.inf), [0, 1, 2, 0], {}, "12 NaN or infinite"),
        (np.ones((4, 3)), [0, 1, 2, 0], {"prior": [0.5, 0.5]}, "prior must have shape"),
        (np.ones((4, 3)), [0, 1, 2, 0], {"prior": [0.5, 0.5, 0.5]}, "sum to 1"),
        (np.ones((4, 3)), [0, 1, 2, 0], {"prior": [0.5, 0.5, 0.0]}, "probability 0 to the label 2 of row 2"),
        (np.ones((4, 3)), [0, 1, 2, 0], {"level": 0.0}, "level must lie"),
    ],
)
def test_bad_input_is_named(scores, labels, options, message):
    for estimator in (rates.gmi_labels, rates.lm_rate):
        with pytest.raises(ValueError, match=message):
            estimator(scores, np.array(labels), **options)
    with pytest.raises(ValueError, match="fit must be one of"):
        rates.lm_rate(np.ones((4, 3)), np.array([0, 1, 2, 0]), fit="best")


def gaussian_scores(n, noise=1.5, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    y = z + noise * rng.normal(size=(n, 2))
    return -0.5 * ((y[:, None] - z[None]) ** 2).sum(-1)


def newton_replicate(scores, weights, method, allowed):
    """A replicate's own supremum over s, float64."""
    own = np.diag(scores)
    keep = allowed & ~np.eye(len(scores), dtype=bool) if method == "exclude" else allowed
    log_weights = np.where(keep, np.log(weights)[None, :], -np.inf)
    norm = logsumexp(log_weights, axis=1)

    def negative(s):
        terms = s * own - logsumexp(s * scores + log_weights, axis=1) + norm
        return -(weights @ terms) / weights.sum()

    return -minimize_scalar(negative, bounds=(0, 4), method="bounded", options={"xatol": 1e-9}).fun


@pytest.mark.parametrize("method", ["include", "exclude"])
@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_equals_a_newton_solve_of_every_replicate(method, grouped):
    scores = gaussian_scores(120)
    contexts = np.arange(120) % 2 if grouped else None
    allowed = contexts[:, None] == contexts[None, :] if grouped else np.ones((120, 120), bool)
    key = jax.random.key(4)
    boot = rates.gmi_bootstrap(scores, contexts=contexts, method=method, draws=60, key=key)
    weights = np.asarray(jax.random.exponential(key, (60, 120), jnp.float32), np.float64)
    assert boot.converged
    for k in range(12):
        np.testing.assert_allclose(boot.draws[k], newton_replicate(scores, weights[k], method, allowed), atol=2e-6)


@pytest.mark.slow
def test_bootstrap_and_influence_function_agree():
    scores = gaussian_scores(400)
    rate = rates.gmi(scores)
    boot = rates.gmi_bootstrap(scores, centre=rate.value, draws=1000, key=jax.random.key(0))
    np.testing.assert_allclose(boot.standard_error, rate.standard_error, rtol=0.1)
    np.testing.assert_allclose(boot.interval.lower, rate.interval.lower, atol=0.3 * float(rate.standard_error))
    np.testing.assert_allclose(boot.interval.upper, rate.interval.upper, atol=0.3 * float(rate.standard_error))


def test_bootstrap_refuses_what_has_no_smooth_distribution():
    with pytest.raises(ValueError, match="no smooth"):
        rates.gmi_bootstrap(10 * np.eye(12), key=jax.random.key(0))
    with pytest.raises(ValueError, match="no smooth"):
        rates.gmi_bootstrap(-gaussian_scores(40), key=jax.random.key(0))
    with pytest.raises(ValueError, match="draws"):
        rates.gmi_bootstrap(gaussian_scores(40), draws=1, key=jax.random.key(0))
