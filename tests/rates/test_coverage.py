"""Estimators against channels whose rates are known: intervals that cover, expectations that match, oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import rates
from gmijax.rates import channels
from gmijax.rates._expectation import estimator_expectation

pytestmark = pytest.mark.slow

REPEATS = 500


def gaussian_pair(key, n):
    """Scalar Gaussian with a wrong variance: GMI = log(1 + SNR) / 2 for every gain that is right."""
    first, second = jax.random.split(key)
    z = jax.random.normal(first, (n,))
    y = z + 0.8 * jax.random.normal(second, (n,))
    return -0.5 * (y[:, None] - z[None, :]) ** 2


GAUSSIAN_GMI = 0.5 * np.log(1 + 1 / 0.8**2)


def binary_pair(key, n):
    """BSC(0.1) read by a decoder that believes 0.2: GMI = MI."""
    first, second = jax.random.split(key)
    x = jax.random.bernoulli(first, 0.5, (n,))
    y = x ^ jax.random.bernoulli(second, 0.1, (n,))
    return jnp.where(y[:, None] == x[None, :], jnp.log(0.8), jnp.log(0.2))


BINARY_GMI = np.log(2) + 0.1 * np.log(0.1) + 0.9 * np.log(0.9)


def coverage(sample, truth, n, **options):
    def one(key):
        rate = rates.gmi(sample(key, n), **options)
        return (rate.interval.lower <= truth) & (truth <= rate.interval.upper), rate.value

    inside, values = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), REPEATS))
    return float(np.mean(inside)), np.asarray(values)


@pytest.mark.parametrize(
    ("sample", "truth"), [(gaussian_pair, GAUSSIAN_GMI), (binary_pair, BINARY_GMI)], ids=["gaussian", "bsc"]
)
def test_influence_intervals_cover(sample, truth):
    inside, values = coverage(sample, truth, 200)
    assert 0.92 <= inside <= 0.98
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(REPEATS) + 0.01  # cross-fit is a little pessimistic


@pytest.mark.parametrize(
    ("sample", "truth"), [(gaussian_pair, GAUSSIAN_GMI), (binary_pair, BINARY_GMI)], ids=["gaussian", "bsc"]
)
def test_bootstrap_intervals_cover(sample, truth):
    inside = 0
    for k, key in enumerate(jax.random.split(jax.random.key(1), REPEATS)):
        scores = sample(key, 200)
        centre = rates.gmi(scores).value
        boot = rates.gmi_bootstrap(scores, centre=centre, draws=300, key=jax.random.key(k))
        inside += int(boot.interval.lower <= truth <= boot.interval.upper)
    assert 0.92 <= inside / REPEATS <= 0.98


def test_label_intervals_cover():
    channel = channels.GaussianLabels(np.array([-2.0, 0.0, 1.5]), np.array([0.5, 0.3, 0.2]), temperature=2.0)
    truth = channel.rates()
    means, weights = jnp.asarray([-2.0, 0.0, 1.5]), jnp.asarray([0.5, 0.3, 0.2])

    def one(key):
        first, second = jax.random.split(key)
        labels = jax.random.categorical(first, jnp.log(weights), shape=(300,))
        z = means[labels] + jax.random.normal(second, (300,))
        logits = (jnp.log(weights)[None, :] - (z[:, None] - means[None, :]) ** 2 / 2) / 2
        scores = jax.nn.log_softmax(logits, axis=1)
        gmi = rates.gmi_labels(scores, labels, prior=weights)
        lm = rates.lm_rate(scores, labels, prior=weights)
        empirical = rates.gmi_labels(scores, labels)
        return [
            (rate.interval.lower <= value) & (value <= rate.interval.upper)
            for rate, value in ((gmi, truth.gmi_messages), (lm, truth.lm_rate), (empirical, truth.gmi_messages))
        ]

    inside = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(2), REPEATS))
    for share in map(np.mean, inside):
        assert 0.92 <= share <= 0.98


@pytest.mark.parametrize("columns", [5, 17, 65])
def test_estimators_have_their_exact_expectations(columns):
    """At a fixed scale the mean over many matrices is the exact binomial sum, to four standard errors."""
    exact = estimator_expectation(0.1, 0.2, 1.0, columns - 1)

    def one(key):
        parts = rates.gmi(binary_pair(key, columns), scale=1.0, method="exclude").alternatives
        return parts.exclude, parts.include, parts.jackknife

    draws = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(3), 4000))
    for values, expected in zip(draws, (exact.exclude, exact.include, exact.jackknife), strict=True):
        values = np.asarray(values, np.float64)
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / np.sqrt(len(values))


CHANNELS = {
    "bsc": channels.BinarySymmetric(0.1, 0.2, 0.2),
    "z": channels.z_channel(0.3, 0.1),
    "dmc": channels.DiscreteMemoryless(
        np.array([0.3, 0.3, 0.4]),
        np.array([[0.7, 0.1, 0.2], [0.2, 0.6, 0.2], [0.2, 0.1, 0.7]]),
        np.array([[1.5, -0.1, 0.7], [-0.5, 1.3, -0.4], [-0.6, 0.6, 1.3]]),
    ),
    "scalar gaussian": channels.ScalarGaussian(1.0, 4.0, channels.Noise("gaussian", 1.0), 0.5, 1.0),
    "laplace": channels.ScalarGaussian(1.0, 1.0, channels.Noise("laplace", 1.0), 1.0, 1.0),
    "vector gaussian": channels.coordinates(2, 1, decay=0.0, scale=2.0, variance=0.5),
    "pam symbols": channels.Modulation(2, 10.0, variance_ratio_hat=2.5, quadrature=False),
    "labels": channels.GaussianLabels(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), bias=np.array([0.0, 2.0])),
}


@pytest.mark.parametrize("name", list(CHANNELS))
def test_estimates_of_known_channels(name):
    """10,000 sampled pairs and their 10,000 x 10,000 scores, block by block: within the 99 % interval."""
    channel = CHANNELS[name]
    truth = channel.rates()
    x, y = channel.sample(jax.random.key(11), 10_000)
    x, y = (jnp.asarray(np.asarray(part)) for part in (x, y))  # float64 becomes float32, integers stay

    def block(operands, rows, columns):
        x, y = operands
        return channel.score_matrix(x[columns], y[rows]).astype(jnp.float32)

    rate = rates.gmi_blockwise(block, 10_000, operands=(x, y), level=0.99)
    assert rate.interval.lower <= truth.gmi <= rate.interval.upper
    if hasattr(channel, "sample_label_scores"):
        scores, labels, prior = channel.sample_label_scores(jax.random.key(12), 10_000)
        known = rates.gmi_labels(np.asarray(scores), np.asarray(labels), prior=np.asarray(prior), level=0.99)
        # The labels of a modulation are its inputs: their known alternatives are those of GMI over inputs.
        expected = truth.gmi if isinstance(channel, channels.Modulation) else truth.gmi_messages
        assert known.interval.lower <= expected <= known.interval.upper
        lm = rates.lm_rate(np.asarray(scores), np.asarray(labels), prior=np.asarray(prior), level=0.99)
        assert lm.interval.lower <= truth.lm_rate <= lm.interval.upper
