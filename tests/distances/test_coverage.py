"""Intervals of 95 % cover what they claim away from the null; where they do not, by how much (docs/distances.md).

The target is the population's value where the estimator is unbiased or nearly so, else the estimator's expectation
at these sizes, from many fresh samples. A binomial share of 400 repeats strays by 0.011: the limits are three of
that away from 0.95.
"""

import math
from functools import partial

import jax
import numpy as np
import pytest
from scipy.stats import norm

from gmijax import distances

pytestmark = pytest.mark.slow

REPEATS, FRESH = 400, 2000
LOWEST, HIGHEST = 0.91, 0.985
BANDWIDTH = 1.5
mmd2 = partial(distances.mmd2, bandwidth=BANDWIDTH)


def laws(number, n, d, *, shift=1.0, seed=0):
    """Pairs of samples of N(0, I) and N(shift e_1, I / 4), or of one law where the shift is 0."""
    x, y = np.random.default_rng(seed).normal(size=(2, number, n, d)).astype(np.float32)
    if shift:
        y = y / 2
        y[..., 0] += shift
    return x, y


def run(estimate, samples, seed=1):
    """Value and interval for every pair of samples, each with a key of its own."""

    def one(pair_and_key):
        result = estimate(*pair_and_key[0], permutations=0, key=pair_and_key[1])
        return result.value, result.interval

    keys = jax.random.split(jax.random.key(seed), len(samples[0]))
    return jax.jit(lambda *arguments: jax.lax.map(one, arguments))(samples, keys)


def covered(result, truth):
    _, interval = result
    return float(np.mean((np.asarray(interval.lower) <= truth) & (truth <= np.asarray(interval.upper))))


def expectation(estimate, n, d):
    """Of the value at these sizes, from many fresh samples."""

    def one(pair_and_key):
        return estimate(*pair_and_key[0], permutations=0, key=pair_and_key[1]).value  # the rest is not computed

    keys = jax.random.split(jax.random.key(4), FRESH)
    values = jax.jit(lambda *arguments: jax.lax.map(one, arguments))(laws(FRESH, n, d, seed=3), keys)
    return np.asarray(values, np.float64).mean()


def mmd2_of_the_laws(d):
    """E k(X, Y) of normal laws is a normal density again: widths add up in squares."""

    def mean(variance, shift):
        total = BANDWIDTH**2 + variance
        return (BANDWIDTH**2 / total) ** (d / 2) * math.exp(-(shift**2) / (2 * total))

    return mean(2.0, 0) + mean(0.5, 0) - 2 * mean(1.25, 1)


def energy_on_the_line():
    def mean_absolute(shift, variance):
        ratio = shift / math.sqrt(variance)
        return math.sqrt(2 * variance / math.pi) * math.exp(-(ratio**2) / 2) + shift * (1 - 2 * norm.cdf(-ratio))

    return 2 * mean_absolute(1, 1.25) - mean_absolute(0, 2.0) - mean_absolute(0, 0.5)


KNOWN = {
    # The distance, n = m, d, and the population's value.
    "gaussian_w2": (distances.gaussian_w2, 400, 2, math.sqrt(1 + 2 * 0.25)),
    "mmd2": (mmd2, 50, 2, mmd2_of_the_laws(2)),
    "mmd2, 32 dimensions": (mmd2, 50, 32, mmd2_of_the_laws(32)),
    "mmd2, 40 blocks": (partial(mmd2, estimator="block", block_size=5), 200, 2, mmd2_of_the_laws(2)),
    "energy": (distances.energy, 50, 1, energy_on_the_line()),
}


@pytest.mark.parametrize("name", list(KNOWN))
def test_intervals_cover_the_population_value(name):
    estimate, n, d, truth = KNOWN[name]
    assert LOWEST <= covered(run(estimate, laws(REPEATS, n, d)), truth) <= HIGHEST


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_covers_the_population_value(debiased):
    """Linear CKA of normal laws is |S_xy|^2 / (|S_x| |S_y|) in Frobenius norms. The plain form's bias is O(1 / n)."""
    mix = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]], np.float32)
    x, noise = np.random.default_rng(2).normal(size=(2, REPEATS, 300, 3)).astype(np.float32)
    x = x[..., :2] * np.array([1.0, 0.7], np.float32)
    within_x = np.diag([1.0, 0.49])
    cross, within_y = within_x @ mix, mix.T @ within_x @ mix + np.eye(3)
    truth = (cross**2).sum() / (np.linalg.norm(within_x) * np.linalg.norm(within_y))
    result = run(partial(distances.cka, debiased=debiased), (x, x @ mix + noise))
    assert LOWEST <= covered(result, truth) <= HIGHEST


SINKHORN = {"epsilon": 0.5, "tolerance": 1e-4}
EXPECTED = {
    "gaussian_w2": (distances.gaussian_w2, 2),
    "sliced_w1": (partial(distances.sliced_w1, directions=32), 2),
    "sinkhorn": (partial(distances.sinkhorn, **SINKHORN), 2),
    "sinkhorn, entropic": (partial(distances.sinkhorn, convention="entropic", **SINKHORN), 2),
    "sinkhorn, 32 dimensions": (partial(distances.sinkhorn, **SINKHORN), 32),
    "sinkhorn_divergence": (partial(distances.sinkhorn_divergence, **SINKHORN), 2),
    "sinkhorn_divergence, transport": (
        partial(distances.sinkhorn_divergence, convention="transport", **SINKHORN), 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(EXPECTED))
def test_intervals_cover_the_expected_value(name):
    estimate, d = EXPECTED[name]
    assert LOWEST <= covered(run(estimate, laws(REPEATS, 50, d)), expectation(estimate, 50, d)) <= HIGHEST


def w1_coverage(interval, *, d, shift, repeats=REPEATS):
    """Of E value at 50 + 50 rows, which 1500 fresh pairs of samples tell to 3 % of one value's scatter."""
    fresh, samples = laws(1500, 50, d, shift=shift, seed=5), laws(repeats, 50, d, shift=shift, seed=6)
    truth = np.mean([distances.w1_exact(x, y).value for x, y in zip(*fresh, strict=True)])
    inside = 0
    for k, (x, y) in enumerate(zip(*samples, strict=True)):
        result = distances.w1(x, y, interval=interval, draws=100, permutations=0, key=jax.random.key(k))
        inside += float(result.interval.lower) <= truth <= float(result.interval.upper)
    return inside / repeats


@pytest.mark.parametrize("d", [2, 32])
@pytest.mark.parametrize("interval", ["dual", "subsample"])
def test_w1_covers_its_expected_value(interval, d):
    assert LOWEST <= w1_coverage(interval, d=d, shift=1.0) <= HIGHEST


def test_percentile_bootstrap_intervals_of_w1_do_not_cover():
    """Resamples with replacement lie farther apart than samples do, the more so in many dimensions."""
    assert w1_coverage("bootstrap", d=2, shift=0.0, repeats=200) < 0.6
    assert w1_coverage("bootstrap", d=32, shift=1.0, repeats=200) < 0.75


def test_five_blocks_cover_by_students_quantile():
    """The scatter of five blocks is itself uncertain; a normal interval of theirs covers 0.88."""
    estimate = partial(mmd2, estimator="block", block_size=10)
    assert LOWEST <= covered(run(estimate, laws(REPEATS, 50, 2)), mmd2_of_the_laws(2)) <= HIGHEST


def test_the_bootstrap_of_mmd2_is_shifted():
    """Copies of a row pair up at k = 1: replicates are high by (2 - E k(X, X') - E k(Y, Y')) / n.

    Their mean is the integral of their quantiles, that is, of the intervals' middles over all levels.
    """
    middles = []
    for level in np.arange(0.05, 1, 0.1):
        values, interval = run(partial(mmd2, interval="bootstrap", level=float(level)), laws(REPEATS, 50, 2))
        middles.append(np.mean((np.asarray(interval.lower) + np.asarray(interval.upper)) / 2 - np.asarray(values)))
    within = sum(BANDWIDTH**2 / (BANDWIDTH**2 + variance) for variance in (2.0, 0.5))
    # The mean of 400 x 200 replicates strays by 2 to 3 %; the midpoint rule misses a little of the longer tail.
    assert np.mean(middles) == pytest.approx((2 - within) / 50, rel=0.12)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_bootstrap_of_mmd2_covers_in_spite_of_its_shift(shift):
    """At 50 rows in two dimensions it is small beside the scatter, between equal laws too."""
    truth = mmd2_of_the_laws(2) if shift else 0.0
    result = run(partial(mmd2, interval="bootstrap"), laws(REPEATS, 50, 2, shift=shift))
    assert LOWEST <= covered(result, truth) <= HIGHEST
