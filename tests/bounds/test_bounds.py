"""Bounds are never violated on random finite laws, sharp where they should be, and refuse what does not combine."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import bounds, distances, rates, sensitivity

SLOPE = sensitivity.LipschitzConstant(2.0, "certified", "z")
INSTANCES, ATOMS, MESSAGES = 150, 12, 3
OWN = np.arange(ATOMS) % MESSAGES
ROUNDING = 1e-10


def distance(value, given, space):
    """One that is known exactly."""
    return distances.known(value, given=given, space=space)


def random_laws():
    """Scores 2 sin(a z + b) on the line, L = 2 max|a|, of a text and a modal law that share the law of messages."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (INSTANCES, MESSAGES, 1)), rng.uniform(0, 6, (INSTANCES, MESSAGES, 1))
    text = rng.normal(size=(INSTANCES, ATOMS))
    modal = text * rng.uniform(0, 1, (INSTANCES, 1)) + rng.normal(size=(INSTANCES, ATOMS)) * rng.uniform(0, 2)
    masses = rng.dirichlet(np.ones(ATOMS), (2, INSTANCES))
    masses[:, ::2] = 1 / ATOMS
    onehot = np.arange(MESSAGES)[:, None] == OWN
    prior = masses @ onehot.T
    masses[1] *= (prior[0] / prior[1]) @ onehot
    before, after = (2 * np.sin(a * z[:, None] + b) for z in (text, modal))
    return text, modal, masses, prior[0], onehot, before, after, 2 * np.abs(a).max((1, 2))


@pytest.fixture(scope="module")
def laws():
    """Instances with their exact curves at a scale each, and their suprema over messages."""
    text, modal, masses, prior, onehot, before, after, slopes = random_laws()
    scales = np.random.default_rng(1).uniform(0.1, 3, INSTANCES)

    @jax.jit
    @jax.vmap
    def exact(scores, mass, scale):
        joint = mass[:, None] * onehot.T
        by_direction = [rates.curve_exact(joint, scores.T, scale, over=over) for over in ("inputs", "messages")]
        supremum = rates.gmi_exact(joint, scores.T, over="messages")
        return *by_direction, supremum.value, supremum.scale

    @jax.jit
    @jax.vmap
    def transport(x, y, mass_x, mass_y):
        given_y = [distances.w1_line(x, y, mass_x * own, mass_y * own) for own in onehot]
        return jnp.stack(given_y), distances.w1_line(x, y, mass_x, mass_y), distances.w_inf_line(x, y, mass_x, mass_y)

    with jax.enable_x64(True):
        rate = [
            [np.asarray(part) for part in exact(scores, mass, scales)]
            for scores, mass in ((before, masses[0]), (after, masses[1]), (after, masses[0]))
        ]
        given_y, given_c, farthest = (np.asarray(part) for part in transport(text, modal, *masses))
    return {
        "scores": (before, after),
        "masses": masses,
        "slopes": [sensitivity.LipschitzConstant(value, "certified", "z") for value in slopes],
        "scales": scales,
        "rates": rate,
        "given_y": [distance(value, "(c, y)", "z") for value in (given_y * prior).sum(1)],
        "given_c": [distance(value, "c", "z") for value in given_c],
        "w_inf": farthest,
        "diameter": np.ptp(np.concatenate([text, modal], axis=1), axis=1),
    }


def test_b1_and_b2_hold(laws):
    (text, text_messages, text_gmi, text_s), (modal, modal_messages, modal_gmi, modal_s), _ = laws["rates"]
    suprema = 0
    for k in range(INSTANCES):
        scale, slope, width = laws["scales"][k], laws["slopes"][k], laws["diameter"][k]
        w_y, w_c = laws["given_y"][k], laws["given_c"][k]
        b1 = bounds.messages(scale, slope, w_y)
        b2 = bounds.inputs(scale, slope, w_y, w_c, width, w_inf=laws["w_inf"][k])
        assert b1.kind == b2.kind == "bound"
        assert abs(modal_messages[k] - text_messages[k]) <= b1.value + ROUNDING
        assert abs(modal[k] - text[k]) <= b2.value + ROUNDING
        for form in ("W1", "W_inf", "range"):
            assert b2.terms["competition"] <= b2.terms[f"competition, {form}"]
        assert bounds.inputs(1.0, slope, w_y, w_c, width).value <= bounds.paper(slope, width, w_y).value + ROUNDING
        largest = max(text_s[k], modal_s[k])
        if math.isfinite(largest):
            suprema += 1
            assert abs(modal_gmi[k] - text_gmi[k]) <= bounds.messages(largest, slope, w_y).value + ROUNDING
    assert suprema > INSTANCES / 2


def test_b3_holds_and_never_exceeds_b2(laws):
    (text, text_messages, *_), (modal, modal_messages, *_), _ = laws["rates"]
    before, after = laws["scores"]
    for k in range(INSTANCES):
        weights = {} if k % 2 == 0 else {"weights_text": laws["masses"][0, k], "weights_modal": laws["masses"][1, k]}
        arguments = (before[k], after[k], OWN, OWN)
        b3 = bounds.score_shift(*arguments, scale=laws["scales"][k], **weights)
        b2 = bounds.inputs(
            laws["scales"][k],
            laws["slopes"][k],
            laws["given_y"][k],
            laws["given_c"][k],
            laws["diameter"][k],
            w_inf=laws["w_inf"][k],
        )
        assert b3.kind == "bound"
        assert abs(modal[k] - text[k]) <= b3.value + ROUNDING
        assert b3.value <= b2.value + ROUNDING
        assert bounds.score_shift(*arguments, scale=laws["scales"][k] / 2, **weights).value <= b3.value + ROUNDING
        exact = bounds.score_shift(*arguments, scale=laws["scales"][k], over="messages", **weights)
        assert exact.kind == "exact"
        assert exact.terms["change"] == pytest.approx(modal_messages[k] - text_messages[k], abs=ROUNDING)


def test_b6_brackets_the_change(laws):
    before, after = laws["scores"]
    change = laws["rates"][2][0] - laws["rates"][0][0]
    for k in range(INSTANCES):
        weights = None if k % 2 == 0 else laws["masses"][0, k]
        b6 = bounds.edit_bracket(before[k], after[k], OWN, scale=laws["scales"][k], weights=weights)
        assert b6.terms["change"] == pytest.approx(change[k], abs=ROUNDING)
        assert b6.lower - ROUNDING <= change[k] <= b6.upper + ROUNDING
        assert b6.terms["first_order"] + b6.terms["second_order"] == pytest.approx(change[k], abs=ROUNDING)
        small = bounds.edit_bracket(
            before[k], before[k] + 1e-4 * (after[k] - before[k]), OWN, scale=laws["scales"][k], weights=weights
        )
        assert small.terms["second_order"] == pytest.approx(small.terms["half_variance"], rel=1e-2, abs=1e-13)


@pytest.mark.parametrize("t", [1.0, 3.0, 6.0])
def test_b1_is_sharp(t):
    """PROOFS, B1: l(z, +-1) = +-z, Z | Y = +1 moved from -t by -d: the change tends to 2 s L W1 as t grows."""
    step, own = 1e-5, np.array([0, 1])
    tables = [np.array([[z, t], [-z, -t]]) for z in (-t, -t - step)]
    change = bounds.score_shift(*tables, own, own, scale=1.0, over="messages").value
    unit = sensitivity.LipschitzConstant(1.0, "certified", "z")
    b1 = bounds.messages(1.0, unit, distance(step / 2, "(c, y)", "z"))
    assert 2 * change / b1.value == pytest.approx(1 + math.tanh(t), rel=1e-5)
    assert change <= b1.value


@pytest.mark.parametrize(
    ("eps", "delta", "change", "exponential"),
    [(1e-7, 1e-3, 2.9785808439021117e-07, 2.9809579870417285e-07), (0.2, 0.5, 0.4991310571693334, 298.0957987041728)],
)
def test_three_points(eps, delta, change, exponential):
    """Mass eps moves from D - delta to D = 8, the rest is at 0: the exponential is tight at small eps, W_inf else."""
    unit = sensitivity.LipschitzConstant(1.0, "certified", "z")
    b2 = bounds.inputs(
        1.0, unit, distance(0.0, "(c, y)", "z"), distance(eps * delta, "c", "z"), 8.0, w_inf=delta
    )  # fmt: skip
    assert b2.terms["competition, W1"] == pytest.approx(math.log1p(exponential), rel=1e-9)
    assert b2.terms["competition, W_inf"] == delta
    assert b2.terms["competition, range"] == 8.0
    assert change <= b2.value <= 1.002 * change
    text, modal = np.array([[0.0, 8.0 - delta]]), np.array([[0.0, 8.0]])
    law = {"weights_text": [1 - eps, eps], "weights_modal": [1 - eps, eps]}
    b3 = bounds.score_shift(text, modal, [0, 0], [0, 0], scale=1.0, **law)
    assert change <= b3.terms["competition"] <= b2.value


@pytest.mark.parametrize(
    ("gain", "shift", "change", "w1_positive", "w2_rho"),
    [
        (1.0, 1.0, -0.10412177920686516, 0.3023407071271984, None),
        (0.97, 0.02, -0.012026939346910848, 0.012047924869453015, 0.05453775012185465 * 1.2993724822839876),
    ],
)
def test_logistic_decoder_of_gaussians(gain, shift, change, w1_positive, w2_rho):
    """Y = +-1, Z | Y normal about 1.5 Y, moved to 1.5 Y gain + shift; l = log sigmoid(2 y z), by quadrature."""
    nodes = np.arange(-8, 8, 0.005)
    weights = np.tile(np.exp(-(nodes**2) / 2), 2)
    own = np.repeat([0, 1], len(nodes))
    sign = np.array([[-1.0], [1.0]])
    tables = [
        -np.logaddexp(0, -2 * sign * np.concatenate([nodes - mean + move, nodes + mean + move]))
        for mean, move in ((1.5, 0.0), (1.5 * gain, shift))
    ]
    b6 = bounds.edit_bracket(*tables, own, scale=1.0, weights=weights)
    b3 = bounds.score_shift(*tables, own, own, scale=1.0, weights_text=weights, weights_modal=weights)
    assert b6.terms["change"] == pytest.approx(change, abs=1e-9)
    assert b6.lower <= change <= b6.upper
    assert b3.terms["direct"] == pytest.approx(w1_positive, abs=1e-7)
    assert abs(change) <= b3.value
    if w2_rho is not None:
        assert b3.terms["competition, W2"] == pytest.approx(w2_rho, rel=1e-3)
    if gain == 1:
        assert (b6.lower, b6.upper) == pytest.approx((-0.21003083502634692, 0), abs=1e-8)


def test_weights_are_repeated_atoms():
    rng = np.random.default_rng(2)
    text, modal, counts = rng.normal(size=(2, 4)), rng.normal(size=(2, 4)), np.array([1, 3, 2, 0])
    own = np.array([0, 0, 1, 1])
    repeat = [np.repeat(table, counts, axis=1) for table in (text, modal)]
    own_repeated = np.repeat(own, counts)
    for over in ("inputs", "messages"):
        weighted = bounds.score_shift(
            text, modal, own, own, scale=1.5, over=over, weights_text=counts, weights_modal=counts
        )  # fmt: skip
        plain = bounds.score_shift(*repeat, own_repeated, own_repeated, scale=1.5, over=over)
        assert weighted.terms == pytest.approx(plain.terms, abs=1e-12)
    weighted = bounds.edit_bracket(text, modal, own, scale=1.5, weights=counts)
    assert weighted.terms == pytest.approx(bounds.edit_bracket(*repeat, own_repeated, scale=1.5).terms, abs=1e-12)


def test_laws_that_do_not_move_cost_nothing():
    table, own = np.random.default_rng(3).normal(size=(3, 5)), np.array([0, 1, 1, 0, 1])  # message 2 never occurs
    for over in ("inputs", "messages"):
        assert bounds.score_shift(table, table, own, own, scale=2.0, over=over).value == 0
    bracket = bounds.edit_bracket(table, table, own, scale=2.0)
    assert (bracket.lower, bracket.upper) == (0, 0)
    assert bounds.score_shift(table, table + 1, own, own, scale=0.0).value == 0


def test_far_scores_do_not_overflow():
    table, own = np.array([[0.0, -4000.0], [-4000.0, 0.0]]), np.array([0, 1])
    bound = bounds.score_shift(table, table[::-1], own, own, scale=1.0)
    assert bound.value == pytest.approx(4000.0)
    bracket = bounds.edit_bracket(table, table[::-1], own, scale=1.0)
    assert (bracket.lower, bracket.upper) == pytest.approx((-8000.0, 0.0))


def test_paper_s_bound_stays_finite_in_its_logarithm():
    value = bounds.paper(sensitivity.LipschitzConstant(100.0, "sampled", "z"), 50.0, distance(1.0, "(c, y)", "z"))
    assert value.value == math.inf
    assert value.terms["log10"] == pytest.approx((5000 + math.log(100)) / math.log(10))
    assert value.kind == "index"
    small = bounds.paper(SLOPE, 1.0, distance(0.5, "(c, y)", "z"))
    assert (small.value, small.kind) == (pytest.approx(1 + math.exp(2)), "bound")


def test_caps():
    caps = bounds.caps(0.5, [[-3.0, 0.0]], [-4.0], math.log(2))
    assert caps == {"change": 4.0, "rate": math.log(2), "paper": 2.0}
    with pytest.raises(ValueError, match="scores_modal must hold finite"):
        bounds.caps(1.0, [0.0], [-math.inf], 1.0)
    with pytest.raises(ValueError, match="entropy must be"):
        bounds.caps(1.0, [0.0], [0.0], math.nan)


def test_only_certified_and_consistent_constants_make_a_bound():
    w_y, w_c = distance(1.0, "(c, y)", "z"), distance(17.8, "c", "z")
    assert bounds.inputs(1.0, SLOPE, w_y, w_c, 20.0).kind == "bound"
    assert bounds.inputs(1.0, SLOPE, w_y, w_c, 10.3).kind == "index"
    for kind in ("searched", "sampled"):
        slope = sensitivity.LipschitzConstant(2.0, kind, "z")
        assert bounds.messages(1.0, slope, w_y).kind == "index"
        assert bounds.inputs(1.0, slope, w_y, w_c, 20.0).kind == "index"


def test_what_does_not_combine_is_refused():
    good = distance(1.0, "(c, y)", "z")
    with pytest.raises(ValueError, match="needs one given"):
        bounds.messages(1.0, SLOPE, distance(1.0, "c", "z"))
    with pytest.raises(ValueError, match="w1_given_c is a distance given"):
        bounds.inputs(1.0, SLOPE, good, good, 1.0)
    with pytest.raises(ValueError, match="two spaces"):
        bounds.messages(1.0, SLOPE, distance(1.0, "(c, y)", "llm_hidden_16"))
    with pytest.raises(ValueError, match="scale must be"):
        bounds.messages(-1.0, SLOPE, good)
    with pytest.raises(ValueError, match="w1 must be"):
        bounds.messages(1.0, SLOPE, dataclasses.replace(good, value=math.nan))
    with pytest.raises(ValueError, match="diameter must be"):
        bounds.paper(SLOPE, math.nan, good)
    with pytest.raises(ValueError, match="w_inf must be"):
        bounds.inputs(1.0, SLOPE, good, distance(1.0, "c", "z"), 1.0, w_inf=-1.0)


def test_scores_that_do_not_fit_are_refused():
    table, own = np.ones((2, 4)), [0, 0, 1, 1]
    with pytest.raises(ValueError, match="same shares"):
        bounds.shift_bracket(table, table, own, [0, 1, 1, 1], scale=1.0)
    with pytest.raises(ValueError, match="scale must be"):
        bounds.score_shift(table, table, own, own, scale=-1.0)
    with pytest.raises(ValueError, match="over must be"):
        bounds.score_shift(table, table, own, own, scale=1.0, over="both")
    with pytest.raises(ValueError, match="messages_modal must name"):
        bounds.score_shift(table, table, own, [0, 0, 1, 2], scale=1.0)
    with pytest.raises(ValueError, match="weights_text must be"):
        bounds.score_shift(table, table, own, own, scale=1.0, weights_text=[1, 1, 1, -1])
    with pytest.raises(ValueError, match="finite matrix"):
        bounds.edit_bracket(np.full((2, 2), np.nan), np.ones((2, 2)), [0, 1], scale=1.0)
    with pytest.raises(ValueError, match="same atoms"):
        bounds.edit_bracket(table, np.ones((3, 4)), own, scale=1.0)
    with pytest.raises(ValueError, match="scale must be"):
        bounds.edit_bracket(table, table, own, scale=math.inf)
