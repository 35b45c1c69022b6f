import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gmijax.rates import _finite
from gmijax.rates._finite import (
    conditional_gmi_paper_exact,
    curve_exact,
    gmi_exact,
    lm_rate_exact,
    mutual_information,
)

SHAPE = (3, 4)
EPS = 1e-11
SCALES = np.array([0.1, 0.5, 1.0, 2.0, 4.0])
DIRECTIONS = ("inputs", "messages")


@jax.jit
def _everything(joint, scores):
    return {
        "information": mutual_information(joint),
        "inputs": gmi_exact(joint, scores, over="inputs"),
        "messages": gmi_exact(joint, scores, over="messages"),
        "lm": lm_rate_exact(joint, scores),
        "paper": conditional_gmi_paper_exact(joint, scores),
        "curve_inputs": curve_exact(joint, scores, SCALES, over="inputs"),
        "curve_messages": curve_exact(joint, scores, SCALES, over="messages"),
    }


def everything(joint, scores):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _everything(joint, scores))


masses = hnp.arrays(float, SHAPE, elements=st.integers(0, 1000).map(float)).filter(lambda m: m.sum() > 0)
joints = masses.map(lambda m: m / m.sum())
tables = hnp.arrays(float, SHAPE, elements=st.integers(-3000, 3000).map(lambda v: v / 1000))
slow_safe = settings(deadline=None, max_examples=60)


@slow_safe
@given(joints, tables)
def test_order_of_the_rates(joint, scores):
    """0 <= GMI <= LM <= I in both directions, and I(s) <= GMI."""
    rates = everything(joint, scores)
    for direction in DIRECTIONS:
        assert rates[direction].converged
        assert 0 <= rates[direction].value <= rates["lm"].value + EPS
        assert np.all(rates[f"curve_{direction}"] <= rates[direction].value + EPS)
    assert rates["lm"].value <= rates["information"] + EPS


@slow_safe
@given(joints, tables)
def test_zero_test(joint, scores):
    """F2: g > 0, GMI over inputs > 0, GMI over messages > 0 and LM > 0 are the same."""
    rates = everything(joint, scores)
    g = rates["inputs"].zero_test
    np.testing.assert_allclose(g, rates["messages"].zero_test, atol=1e-12)
    product = joint.sum(1)[:, None] * joint.sum(0)
    np.testing.assert_allclose(g, np.sum((joint - product) * scores), atol=1e-12)
    values = [rates["inputs"].value, rates["messages"].value, rates["lm"].value]
    if g <= 0:
        assert values == [0, 0, 0]
    elif g > 1e-4:
        assert min(values) > 0


@slow_safe
@given(joints, tables)
def test_curve_is_concave_and_starts_at_zero(joint, scores):
    """F1."""
    with jax.enable_x64(True):
        for direction in DIRECTIONS:
            values = curve_exact(joint, scores, np.linspace(0, 4, 9), over=direction)
            assert values[0] == 0
            assert np.all(np.diff(values, 2) <= EPS)


@slow_safe
@given(
    joints,
    tables,
    hnp.arrays(float, SHAPE[0], elements=st.integers(-20, 20).map(float)),
    hnp.arrays(float, SHAPE[1], elements=st.integers(-20, 20).map(float)),
    st.sampled_from([0.25, 2.0, 8.0]),
)
def test_invariances(joint, scores, rows, columns, unit):
    """F8: kappa l + b(y) leaves GMI over inputs, kappa l + a(x) leaves it over messages, both leave LM."""
    plain = everything(joint, scores)
    moved = everything(joint, unit * scores + columns)
    np.testing.assert_allclose(moved["inputs"].value, plain["inputs"].value, atol=1e-10)
    np.testing.assert_allclose(moved["lm"].value, plain["lm"].value, atol=1e-10)
    moved = everything(joint, unit * scores + rows[:, None])
    np.testing.assert_allclose(moved["messages"].value, plain["messages"].value, atol=1e-10)
    np.testing.assert_allclose(moved["lm"].value, plain["lm"].value, atol=1e-10)


@slow_safe
@given(joints, tables)
def test_paper_form_is_never_information(joint, scores):
    """Equation 3 lies in [-R^2 / 8, 0]."""
    spread = scores.max() - scores.min()
    assert -(spread**2) / 8 - EPS <= everything(joint, scores)["paper"] <= EPS


@slow_safe
@given(joints, hnp.arrays(float, SHAPE[1], elements=st.integers(-9, 9).map(float)))
def test_paper_form_is_zero_for_a_decoder_that_ignores_the_input(joint, scores):
    np.testing.assert_allclose(everything(joint, np.tile(scores, (SHAPE[0], 1)))["paper"], 0, atol=1e-12)


@slow_safe
@given(joints, tables)
def test_gap_is_a_divergence(joint, scores):
    """F3: I - I(s) is the mean KL divergence of the true posterior from the tilted law, in both directions."""
    rates = everything(joint, scores)
    for direction in DIRECTIONS:
        law, table = (joint, scores) if direction == "inputs" else (joint.T, scores.T)
        alternatives, others = law.sum(1, keepdims=True), law.sum(0)
        for scale, value in zip(SCALES, rates[f"curve_{direction}"], strict=True):
            tilt = alternatives * np.exp(scale * table)
            tilt = tilt / tilt.sum(0)
            positive = law > 0
            ratio = np.where(positive, law, 1) / np.where(positive, others * tilt, 1)
            np.testing.assert_allclose(rates["information"] - value, np.sum(law * np.log(ratio)), rtol=1e-9, atol=1e-11)


@slow_safe
@given(joints, tables)
def test_processing_the_input_bounds_what_any_decoder_gets(joint, scores):
    """Data processing: a decoder that sees only T(x) has LM, hence GMI, at most I(T(X); Y) <= I(X; Y).

    The GMI of a fixed mismatched decoder itself is NOT monotone: processing may repair it (B6).
    """
    merge = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # T sends inputs 0 and 1 to 0
    processed = everything(merge.T @ joint, scores)
    through = everything(joint, merge @ scores)
    for direction in DIRECTIONS:
        np.testing.assert_allclose(through[direction].value, processed[direction].value, atol=1e-10)
    np.testing.assert_allclose(through["lm"].value, processed["lm"].value, atol=1e-9)
    assert through["lm"].value <= processed["information"] + EPS
    assert processed["information"] <= everything(joint, scores)["information"] + EPS


def test_processing_may_raise_the_gmi_of_a_mismatched_decoder():
    joint = np.array([[0.25, 0.0], [0.25, 0.0], [0.0, 0.25], [0.0, 0.25]])
    scores = np.array([[0.0, -1.0], [-2.0, -1.0], [-1.0, 0.0], [-1.0, 0.0]])  # wrong about input 1 alone
    repaired = scores[np.array([0, 0, 2, 3])]  # T sends it to input 0
    with jax.enable_x64(True):
        assert gmi_exact(joint, repaired).value > gmi_exact(joint, scores).value + 0.1


def test_true_posterior():
    """F8: exact over inputs at s = 1; over messages only with log P(y) taken off."""
    joint = np.array([[0.5, 0.05, 0.05], [0.02, 0.2, 0.03], [0.03, 0.02, 0.1]])
    posterior = np.log(joint / joint.sum(1, keepdims=True))
    with jax.enable_x64(True):
        information = mutual_information(joint)
        for scores in (posterior, posterior - np.log(joint.sum(0))):
            rate = gmi_exact(joint, scores)
            np.testing.assert_allclose([rate.value, rate.at_one], information, rtol=1e-12)
            np.testing.assert_allclose(rate.scale, 1, rtol=1e-6)
            np.testing.assert_allclose(lm_rate_exact(joint, scores).value, information, rtol=1e-12)
        assert gmi_exact(joint, posterior, over="messages").value < information - 1e-3
        pmi = gmi_exact(joint, posterior - np.log(joint.sum(0)), over="messages")
        np.testing.assert_allclose(pmi.value, information, rtol=1e-12)


def test_z_channel_has_lm_above_gmi_at_an_infinite_scale():
    joint = np.array([[0.5, 0.0], [0.15, 0.35]])
    scores = np.log([[0.9, 0.1], [0.1, 0.9]])
    with jax.enable_x64(True):
        lm = lm_rate_exact(joint, scores)
        np.testing.assert_allclose(lm.value, mutual_information(joint), rtol=1e-11)
        assert lm.scale == jnp.inf
        assert lm.converged
        for direction in DIRECTIONS:
            rate = gmi_exact(joint, scores, over=direction)
            assert rate.value < lm.value - 0.04
            assert np.isfinite(rate.scale)


def test_noiseless_soft_decoder():
    """The counterexample: the paper's form is 0 where the decoder gets every bit."""
    scores = np.log([[0.9, 0.1], [0.1, 0.9]])
    with jax.enable_x64(True):
        rates = everything(np.eye(2) / 2, scores)
    np.testing.assert_allclose(rates["paper"], 0, atol=1e-15)
    for name in (*DIRECTIONS, "lm"):
        np.testing.assert_allclose(rates[name].value, np.log(2), rtol=1e-12)
        assert rates[name].scale == np.inf


def test_scores_of_minus_infinity():
    scores = np.array([[0.0, -np.inf], [np.log(0.3), np.log(0.7)]])
    with jax.enable_x64(True):
        hit = gmi_exact(np.full((2, 2), 0.25), scores)
        assert (hit.value, hit.scale, hit.at_one, hit.zero_test) == (0, 0, -np.inf, -np.inf)
        assert lm_rate_exact(np.full((2, 2), 0.25), scores).value == 0
        avoided = np.array([[0.5, 0.0], [0.15, 0.35]])
        rate = gmi_exact(avoided, scores)
        assert rate.zero_test == np.inf
        np.testing.assert_allclose(rate.value, mutual_information(avoided), rtol=1e-11)
        np.testing.assert_allclose(lm_rate_exact(avoided, scores).value, rate.value, rtol=1e-11)


def test_contexts():
    """One scale for all contexts; padding and a context of probability 0 change nothing."""
    good, poor = (np.array([[0.5 - p, p], [p, 0.5 - p]]) for p in (0.05, 0.2))
    score = np.array([[-0.2, -1.8], [-1.8, -0.2]])
    joint, scores = np.stack([good, poor]) / 2, np.stack([score, score])
    with jax.enable_x64(True):
        shared = gmi_exact(joint, scores)
        apart = np.mean([gmi_exact(law, score).value for law in (good, poor)])
        np.testing.assert_allclose(apart, mutual_information(joint), rtol=1e-12)
        np.testing.assert_allclose(shared.value, 0.1308120359411369, rtol=1e-12)  # oracle cond_same_scale
        padded_joint, padded_scores = np.zeros((3, 4, 5)), np.zeros((3, 4, 5))
        padded_joint[:2, :2, :2], padded_scores[:2, :2, :2] = joint, scores
        for function in (gmi_exact, lm_rate_exact):
            np.testing.assert_allclose(
                function(padded_joint, padded_scores).value, function(joint, scores).value, rtol=1e-10
            )
        lm = lm_rate_exact(joint, scores)
        assert shared.value - EPS <= lm.value < mutual_information(joint)


@pytest.mark.parametrize("over", DIRECTIONS)
def test_gradients_match_differences(over):
    rng = np.random.default_rng(0)
    joint, scores, step = rng.random(SHAPE), rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    joint = joint / joint.sum() + 0.1 * np.eye(*SHAPE)
    joint, scores = joint / joint.sum(), scores + 3 * np.eye(*SHAPE)
    with jax.enable_x64(True):
        for rate in (lambda s: gmi_exact(joint, s, over=over).value, lambda s: lm_rate_exact(joint, s).value):
            difference = (rate(scores + 1e-5 * step) - rate(scores - 1e-5 * step)) / 2e-5
            np.testing.assert_allclose(np.sum(jax.grad(rate)(scores) * step), difference, rtol=1e-6)


def test_biases_make_the_calibrated_decoder():
    rng = np.random.default_rng(1)
    for shape in ((3, 5), (5, 3)):
        joint = rng.random(shape) + 2 * np.eye(*shape)
        joint /= joint.sum()
        scores = 2 * np.eye(*shape) + rng.normal(size=shape)
        with jax.enable_x64(True):
            lm = lm_rate_exact(joint, scores)
            log_q = jax.nn.log_softmax(lm.scale * scores + lm.biases, axis=-1)
            entropy = -np.sum(joint.sum(0) * np.log(joint.sum(0)))
            np.testing.assert_allclose(entropy + np.sum(joint * log_q), lm.value, rtol=1e-9)


def test_vmap_and_float32():
    rng = np.random.default_rng(2)
    joint = rng.random((5, *SHAPE)).astype(np.float32)
    joint /= joint.sum((1, 2), keepdims=True)
    scores = rng.normal(size=(5, *SHAPE)).astype(np.float32)
    together = jax.vmap(gmi_exact)(joint, scores)
    assert together.value.dtype == jnp.float32
    for index in range(5):
        np.testing.assert_allclose(together.value[index], gmi_exact(joint[index], scores[index]).value, atol=1e-6)


def test_errors_name_the_argument():
    # The private checks: the tests' type checker would get there first.
    with pytest.raises(ValueError, match=r"joint and scores must share one shape.*\(2, 2\) and \(2, 3\)"):
        _finite._as_tables(np.full((2, 2), 0.25), np.zeros((2, 3)))
