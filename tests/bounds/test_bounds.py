"""Bounds are never violated on random finite laws, sharp where they should be, and refuse what does not combine."""

import math

import numpy as np
import pytest

from gmijax import bounds, sensitivity
from gmijax.distances import W1

SLOPE = sensitivity.LipschitzConstant(2.0, "certified", "z")


def information(table, own, scale, over):
    """I(s) of a finite law whose atoms weigh the same, float64."""
    direct = scale * table[own, np.arange(len(own))].mean()
    prior = np.bincount(own, minlength=len(table)) / len(own)
    if over == "inputs":
        return direct - prior @ (np.logaddexp.reduce(scale * table, axis=1) - math.log(table.shape[1]))
    return direct - np.logaddexp.reduce(scale * table + np.log(prior)[:, None], axis=0).mean()


def test_no_bound_is_violated_on_random_laws():
    """Scores 2 sin(a z + b) on the line: L = 2 max|a| certified, W1 and W_inf given y by sorting."""
    rng = np.random.default_rng(0)
    own = np.arange(12) % 3
    for _ in range(300):
        a, b = rng.uniform(-1, 1, 3), rng.uniform(0, 6, 3)
        text, modal = rng.normal(size=12), rng.normal(size=12) * rng.uniform(0.2, 2) + rng.normal()
        scale = rng.uniform(0.1, 3)
        before, after = (2 * np.sin(a[:, None] * z[None] + b[:, None]) for z in (text, modal))
        slope = sensitivity.LipschitzConstant(2 * np.abs(a).max(), "certified", "z")
        width = np.ptp(np.concatenate([text, modal]))
        given_y = np.mean([np.abs(np.sort(text[own == y]) - np.sort(modal[own == y])).mean() for y in range(3)])
        gaps = np.abs(np.sort(text) - np.sort(modal))
        w_y, w_c = W1(given_y, 12, 12, "(c, y)", "z"), W1(gaps.mean(), 12, 12, "c", "z")
        change = {
            over: information(after, own, scale, over) - information(before, own, scale, over)
            for over in ("inputs", "messages")
        }
        b1 = bounds.messages(scale, slope, w_y)
        b2 = bounds.inputs(scale, slope, w_y, w_c, width, w_inf=gaps.max())
        b3 = bounds.score_shift(before, after, own, own, scale=scale)
        exact = bounds.score_shift(before, after, own, own, scale=scale, over="messages")
        b6 = bounds.edit_bracket(before, after, own, scale=scale)
        assert abs(change["messages"]) <= b1.value + 1e-12
        assert abs(change["inputs"]) <= b2.value + 1e-12
        assert abs(change["inputs"]) <= b3.value + 1e-12
        assert b3.value <= b2.value + 1e-12 or b2.terms["competition"] < slope.value * scale * gaps.max()
        assert exact.value == pytest.approx(abs(change["messages"]), abs=1e-12)
        assert b6.lower - 1e-12 <= change["inputs"] <= b6.upper + 1e-12
        assert b6.terms["change"] == pytest.approx(change["inputs"], abs=1e-12)
        assert b6.terms["second_order"] <= 1e-12
        assert b2.kind == "bound"
        at_one = bounds.inputs(1.0, slope, w_y, w_c, width)
        assert at_one.value <= bounds.paper(slope, width, w_y).value + 1e-9


@pytest.mark.parametrize(("t", "ratio"), [(1.0, 1.76), (3.0, 1.995), (6.0, 1.99999)])
def test_b1_is_sharp(t, ratio):
    """PROOFS, B1: l(z, +-1) = +-z, Z | Y = +1 moved from -t by -d: the change tends to 2 s L W1."""
    step = 1e-6
    values = []
    for positive in (-t, -t - step):
        z = np.array([positive, t])
        table = np.stack([z, -z])
        values.append(information(table, np.array([0, 1]), 1.0, "messages"))
    assert abs(values[1] - values[0]) / (step / 2) == pytest.approx(ratio, rel=5e-3)


def test_three_point_oracle():
    """P and Q on {0, D - delta} and {0, D}: the exponential form is tight, and log(1 + .) below it."""
    given_c = W1(1e-10, 0, 0, "c", "z")
    unit = sensitivity.LipschitzConstant(1.0, "certified", "z")
    b2 = bounds.inputs(1.0, unit, W1(0.0, 0, 0, "(c, y)", "z"), given_c, 8.0, w_inf=1e-3)
    assert b2.terms["competition, W1"] == pytest.approx(2.9809579870417285e-07, rel=1e-6)
    assert b2.terms["competition, W_inf"] == 1e-3
    assert b2.terms["competition, range"] == 8.0
    assert b2.value >= 2.9785808439021117e-07


def test_paper_s_bound_stays_finite_in_its_logarithm():
    value = bounds.paper(sensitivity.LipschitzConstant(100.0, "sampled", "z"), 50.0, W1(1.0, 1, 1, "(c, y)", "z"))
    assert value.value == math.inf
    assert value.terms["log10"] == pytest.approx((5000 + math.log(100)) / math.log(10))
    assert value.kind == "index"


def test_what_does_not_combine_is_refused():
    good = W1(1.0, 4, 4, "(c, y)", "z")
    with pytest.raises(ValueError, match="needs one given"):
        bounds.messages(1.0, SLOPE, W1(1.0, 4, 4, "c", "z"))
    with pytest.raises(ValueError, match="two spaces"):
        bounds.messages(1.0, SLOPE, W1(1.0, 4, 4, "(c, y)", "llm_hidden_16"))
    with pytest.raises(ValueError, match="scale must be"):
        bounds.messages(-1.0, SLOPE, good)
    with pytest.raises(ValueError, match="w1 must be"):
        bounds.messages(1.0, SLOPE, W1(math.nan, 4, 4, "(c, y)", "z"))
    with pytest.raises(ValueError, match="same shares"):
        bounds.score_shift(np.ones((2, 4)), np.ones((2, 4)), [0, 0, 1, 1], [0, 1, 1, 1], scale=1.0)
    with pytest.raises(ValueError, match="finite matrix"):
        bounds.edit_bracket(np.full((2, 2), np.nan), np.ones((2, 2)), [0, 1], scale=1.0)
    assert not bounds.consistent(W1(17.8, 1, 1, "none", "z"), 10.3)
    assert bounds.consistent(good, 1.0)
