import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from gmijax.rates import channels
from gmijax.rates._expectation import estimator_expectation

ANY = channels.DiscreteMemoryless(
    np.array([0.5, 0.3, 0.2]),
    np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.2, 0.1], [0.2, 0.2, 0.2, 0.4]]),
    np.array([[1.0, -0.2, 0.3, -1.0], [-0.5, 1.2, 0.1, 0.0], [0.0, 0.2, 0.4, 1.1]]),
)
FINITE = {
    "bsc": channels.BinarySymmetric(0.1, 0.2, 0.3),
    "z": channels.z_channel(0.3, 0.1),
    "any": ANY,
}
LABELLED = FINITE | {
    "pam": channels.Modulation(2, 8.0, noise="laplace", quadrature=False),
    "qam_bicm": channels.Modulation(2, 8.0, "bicm", gain_hat=0.9),
    "qam_maxlog": channels.Modulation(2, 8.0, "maxlog", labeling="natural"),
    "rotated": channels.RotatedQAM(1, 6.0, 12.0),
    "labels": channels.GaussianLabels(
        np.array([-1.0, 0.5, 2.0]),
        np.array([0.5, 0.3, 0.2]),
        bias=np.array([0.0, 1.0, -0.5]),
        temperature=2.0,
    ),
    "labels_pmi": channels.GaussianLabels(
        np.array([[1.0, 0.3], [-1.0, 0.3], [0.0, -1.2]]), np.array([0.5, 0.3, 0.2]), pmi_score=True
    ),
}
EVERY = LABELLED | {
    "scalar": channels.ScalarGaussian(1.0, 2.0, channels.Noise("mix:0.2:9", 0.7), 0.8, 1.3),
    "scalar_uniform": channels.ScalarGaussian(-1.0, 1.0, channels.Noise("uniform", 0.5), -1.2, 0.5),
    "vector": channels.readout(6, 3, 4, decay=0.5, scale=1.0, gain=1.0, variance=0.4, variance_hat=0.6, shift=0.3),
}


SLOW = ("rotated", "scalar_uniform", "labels_pmi")  # each compiles a shape of its own


def cases(named):
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in named]


def within(sample, expected, deviations=5.0):
    """Whether a sample's mean is within its standard errors of what it should be."""
    sample = np.asarray(sample, float)
    return abs(sample.mean() - expected) <= deviations * sample.std() / math.sqrt(sample.size) + 1e-6


@pytest.mark.parametrize("name", cases(EVERY))
def test_sampler_agrees_with_the_zero_test(name):
    channel = EVERY[name]
    x, y = channel.sample(jax.random.key(0), 20_000)
    apart = np.asarray(channel.score(x, y)) - np.asarray(channel.score(jnp.roll(x, 1, axis=0), y))
    assert within(apart, channel.rates().zero_test)


@pytest.mark.parametrize("name", cases(LABELLED))
def test_label_scores_agree_with_the_curve(name):
    channel = LABELLED[name]
    scores, labels, prior = channel.sample_label_scores(jax.random.key(1), 20_000)
    np.testing.assert_allclose(np.sum(prior), 1, rtol=1e-6)
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    terms = 0.5 * own - jax.nn.logsumexp(0.5 * scores, axis=1, b=prior)
    over = "inputs" if isinstance(channel, (channels.Modulation, channels.RotatedQAM)) else "messages"
    assert within(terms, channel.curve(np.array([0.5]), over)[0])
    frequencies = np.bincount(np.asarray(labels), minlength=len(prior)) / len(labels)
    np.testing.assert_allclose(frequencies, prior, atol=0.03)


@pytest.mark.parametrize("name", cases(EVERY))
def test_rates_are_ordered_and_the_curve_stays_below(name):
    channel = EVERY[name]
    rates = channel.rates()
    for value in (rates.gmi, rates.gmi_messages):
        assert 0 <= value <= rates.lm_rate + 1e-9
    assert rates.lm_rate <= rates.mutual_information + 1e-9
    for over, best, at_one in (
        ("inputs", rates.gmi, rates.gmi_at_one),
        ("messages", rates.gmi_messages, rates.gmi_messages_at_one),
    ):
        values = channel.curve(np.array([[0.0, 0.5], [1.0, 3.0]]), over)
        assert values.dtype == np.float64
        assert values.shape == (2, 2)
        assert values[0, 0] == 0
        np.testing.assert_allclose(values[1, 0], at_one, rtol=1e-10, atol=1e-12)
        assert np.all(values <= best + 1e-9)
    assert not rates.conditional_gmi_paper > 1e-12


@pytest.mark.parametrize("name", cases(EVERY))
def test_score_matrix_has_inputs_in_columns(name):
    channel = EVERY[name]
    x, y = channel.sample(jax.random.key(2), 5)
    matrix = channel.score_matrix(x, y)
    assert matrix.shape == (5, 5)
    np.testing.assert_allclose(np.diag(matrix), channel.score(x, y), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(matrix[1, 3], channel.score(x[3], y[1]), rtol=1e-4, atol=1e-5)


def test_float64_does_not_leak():
    ANY.rates()
    assert jnp.zeros(1).dtype == jnp.float32


def test_binary_symmetric_closed_form():
    rates = channels.BinarySymmetric(0.1, 0.3).rates()
    entropy = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    np.testing.assert_allclose(rates.gmi, math.log(2) - entropy, rtol=1e-12)
    np.testing.assert_allclose(rates.gmi_scale, math.log(9) / math.log(7 / 3), rtol=1e-7)
    assert channels.BinarySymmetric(0.1, 0.6).rates().gmi == 0


def test_z_channel_lm_is_above_gmi():
    rates = channels.z_channel(0.3, 0.1).rates()
    assert rates.gmi < rates.gmi_messages < rates.lm_rate - 0.04
    np.testing.assert_allclose(rates.lm_rate, rates.mutual_information, rtol=1e-11)
    assert rates.lm_scale == math.inf


def test_contexts_share_one_scale_and_pooled_alternatives_exceed_the_bound():
    def context(prior, scores):
        return channels.DiscreteMemoryless(prior, np.array([[0.8, 0.2], [0.3, 0.7]]), scores)

    conditional = channels.ConditionalDiscrete(
        np.array([1 / 3, 2 / 3]),
        (
            context(np.array([0.9, 0.1]), np.array([[-0.3, -1.2], [-1.5, -0.3]])),
            context(np.array([0.1, 0.9]), np.array([[-2.0, -1.4], [-1.9, -0.1]])),
        ),
    )
    rates = conditional.rates()
    assert rates.gmi < rates.extras["gmi_per_context"] < rates.mutual_information
    assert rates.extras["gmi_pooled"] > 5 * rates.mutual_information
    x, y = conditional.sample_context(jax.random.key(0), 1, 2000)
    assert set(np.asarray(y[:, 0])) == {1}
    assert within(np.asarray(x), 0.9)
    x, y = conditional.sample(jax.random.key(0), 20_000)
    assert within(np.asarray(y[:, 0]), 2 / 3)


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "laplace", "rademacher", "mix:0.1:20"])
def test_noise_laws(kind):
    noise = channels.Noise(kind, 0.7)
    sample = np.asarray(noise.sample(jax.random.key(0), 50_000), float)
    assert within(sample, 0)
    assert within(sample**2, 0.7)
    assert within(sample**4, noise.fourth_moment())
    with jax.enable_x64(True):
        point = jnp.linspace(-40, 40, 80_001)
        density = np.exp(noise.log_smoothed_density(point, jnp.asarray(0.3)))
    for power, moment in ((0, 1), (1, 0), (2, 1.0)):
        np.testing.assert_allclose(np.sum(density * np.asarray(point) ** power) * 1e-3, moment, atol=1e-8)


@pytest.mark.slow
def test_gmi_does_not_depend_on_the_noise_law():
    rates = [
        channels.ScalarGaussian(1.0, 1.0, channels.Noise(kind, 0.5), 0.7, 0.4).rates()
        for kind in ("gaussian", "uniform", "laplace")
    ]
    for other in rates[1:]:
        np.testing.assert_allclose(other.gmi, rates[0].gmi, rtol=1e-12)
        assert other.lm_rate > rates[0].lm_rate


def test_best_gain():
    def gmi(gain_hat):
        return channels.ScalarGaussian(0.8, 2.0, channels.Noise("gaussian", 0.5), gain_hat, 1.0).rates()

    best = gmi(0.8)
    np.testing.assert_allclose(best.gmi, best.extras["best_gain_gmi"], rtol=1e-12)
    assert gmi(0.7).gmi < best.gmi > gmi(0.9).gmi
    assert gmi(-0.8).gmi == gmi(0.0).lm_rate == 0


def test_vector_of_one_dimension_is_the_scalar():
    scalar = channels.ScalarGaussian(1.5, 0.8, channels.Noise("gaussian", 0.6), 1.1, 0.9)
    vector = channels.VectorGaussian(np.zeros(1), *(np.full((1, 1), value) for value in (0.8, 1.5, 0.6, 1.1, 0.9)))
    ours, theirs = scalar.rates(), vector.rates()
    for field in ("mutual_information", "gmi", "gmi_messages", "lm_rate", "lm_scale", "zero_test"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-7)
    for over in ("inputs", "messages"):
        np.testing.assert_allclose(scalar.curve(np.ones(1), over), vector.curve(np.ones(1), over), rtol=1e-9)


def test_a_shift_that_the_decoder_ignores_costs_nothing():
    def rates(shift):
        return channels.coordinates(5, 2, decay=1.0, scale=2.0, variance=0.5, variance_hat=0.5, shift=shift).rates()

    assert rates(0.0).gmi == pytest.approx(rates(3.0).gmi, rel=1e-12)
    assert rates(0.0).gmi == pytest.approx(rates(0.0).extras["mi_subspace"], rel=1e-12)


def test_a_decoder_that_reads_nothing_has_no_rate():
    rates = channels.coordinates(4, 0, decay=1.0, scale=2.0, variance=0.5, variance_hat=0.5).rates()
    assert (rates.gmi, rates.gmi_messages, rates.lm_rate, rates.zero_test) == (0, 0, 0, 0)


@pytest.mark.slow
def test_unrotated_qam_is_two_dimensions_of_pam():
    rotated, product = channels.RotatedQAM(1, 6.0, 0.0).rates(), channels.Modulation(1, 6.0).rates()
    for field in ("mutual_information", "gmi", "gmi_messages", "lm_rate", "zero_test", "conditional_gmi_paper"):
        np.testing.assert_allclose(getattr(rotated, field), getattr(product, field), rtol=1e-8)


def test_bit_levels_sum_to_the_rate():
    channel = channels.Modulation(3, 9.0, "maxlog")
    rates = channel.rates()
    np.testing.assert_allclose(2 * sum(rates.extras["per_bit_level"]), rates.gmi, rtol=1e-10)
    assert rates.gmi < channels.Modulation(3, 9.0, "bicm").rates().gmi < rates.mutual_information


def test_labels_do_not_depend_on_idle_directions():
    line = channels.GaussianLabels(np.array([-1.0, 0.2, 1.4]), np.array([0.5, 0.3, 0.2]), temperature=1.7)
    direction = np.array([0.6, 0.0, 0.8])
    space = channels.GaussianLabels(np.array([-1.0, 0.2, 1.4])[:, None] * direction + 3, line.priors, temperature=1.7)
    ours, theirs = line.rates(), space.rates()
    for field in ("mutual_information", "gmi", "gmi_messages", "lm_rate"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-9)
    np.testing.assert_allclose(ours.extras["argmax_accuracy"], theirs.extras["argmax_accuracy"], rtol=1e-9)


def test_label_identities():
    channel = channels.GaussianLabels(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), bias=np.array([0.0, 2.0]))
    rates = channel.rates()
    extras = rates.extras
    np.testing.assert_allclose(extras["argmax_accuracy"], (0.5 + norm.cdf(2)) / 2, rtol=1e-12)
    # F9: I(1) = CE(qbar) - CE(q); F7: a bias of one label is what LM repairs.
    marginal = -np.mean(np.log(extras["decoder_marginal"]))
    np.testing.assert_allclose(rates.gmi_at_one, marginal - extras["cross_entropy"], rtol=1e-9)
    np.testing.assert_allclose(rates.lm_rate, rates.mutual_information, rtol=1e-10)
    assert rates.gmi_messages < rates.gmi < rates.lm_rate - 0.05
    np.testing.assert_allclose(extras["cross_entropy_temperature_scaled"], math.log(2) - rates.gmi_messages, rtol=1e-10)


@pytest.mark.slow
def test_accuracy_in_the_plane_matches_sampling():
    channel = channels.GaussianLabels(
        np.array([[1.0, 0.8], [1.0, -0.8], [-1.0, 0.8], [-1.0, -0.8]]),
        np.array([0.4, 0.3, 0.2, 0.1]),
        bias=np.array([0.0, 1.0, -1.0, 2.0]),
    )
    scores, labels, _ = channel.sample_label_scores(jax.random.key(3), 100_000)
    hits = np.asarray(jnp.argmax(scores, axis=1) == labels)
    assert within(hits, channel.rates().extras["argmax_accuracy"])


def test_expectations_of_the_estimators_by_enumeration():
    p, hat, one, scale, count = 0.1, 0.2, 0.3, 1.3, 3
    prior = {0: 1 - one, 1: one}
    score = {True: scale * math.log(1 - hat), False: scale * math.log(hat)}
    exclude = include = delta = 0.0
    for index in range(2 ** (2 + count)):
        x, y, *others = (index >> bit & 1 for bit in range(2 + count))
        chance = prior[x] * (1 - p if x == y else p) * math.prod(prior[other] for other in others)
        weights = np.exp([score[other == y] for other in others])
        own = score[x == y]
        exclude += chance * (own - math.log(weights.mean()))
        include += chance * (own - math.log((weights.sum() + math.exp(own)) / (count + 1)))
        correction = weights.var(ddof=1) / (2 * count * weights.mean() ** 2)
        delta += chance * (own - math.log(weights.mean()) - correction)
    result = estimator_expectation(p, hat, scale, count, one)
    np.testing.assert_allclose([result.exclude, result.include, result.delta], [exclude, include, delta], rtol=1e-12)
    assert result.include < result.mutual_information


def test_expectations_shrink_at_their_rates():
    small, large = (estimator_expectation(0.1, 0.2, 1.0, count) for count in (256, 512))
    for name, order in (("exclude", 1), ("include", 1), ("jackknife", 2), ("delta", 2)):
        ratio = (getattr(small, name) - small.truth) / (getattr(large, name) - large.truth)
        np.testing.assert_allclose(ratio, 2**order, rtol=0.02)
    np.testing.assert_allclose(large.first_order_exclude, large.exclude - large.truth, rtol=0.01)
    np.testing.assert_allclose(large.first_order_include, large.include - large.truth, rtol=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: channels.BinarySymmetric(1.2, 0.1), r"crossover must lie in \[0, 1\]; got 1.2"),
        (lambda: channels.BinaryAsymmetric(0.1, 0.1), "exactly one of crossover_hat and metric"),
        (lambda: channels.DiscreteMemoryless(np.array([0.5, 0.6]), np.eye(2), np.eye(2)), "prior must hold"),
        (lambda: channels.DiscreteMemoryless(np.ones(1), np.eye(2), np.eye(2)), r"prior must be \(k_x,\)"),
        (lambda: channels.Noise("cauchy", 1.0), "kind must be 'gaussian'"),
        (lambda: channels.Noise("gaussian", 0.0), "variance must be positive"),
        (lambda: channels.Modulation(2, 3.0, noise="rademacher"), "noise must have a density"),
        (lambda: channels.Modulation(9, 3.0), r"bits_per_dimension must be an integer in 1\.\.8; got 9"),
        (lambda: channels.GaussianLabels(np.zeros(3), np.array([0.5, 0.5])), "means must hold one mean a label"),
        (
            lambda: channels.VectorGaussian(np.zeros(2), np.eye(2), np.eye(2), -np.eye(2), np.eye(2), np.eye(2)),
            "noise_covariance must be positive definite",
        ),
        (lambda: estimator_expectation(0.1, 0.0, 1.0, 4), r"crossover_hat must lie in \(0, 1\)"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
