"""B1, B2, B5, the paper's forms, B0: formulas, what makes an index, what is refused."""

import dataclasses
import math

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from gmijax import bounds, sensitivity

SLOPE = sensitivity.LipschitzConstant(2.0, "certified", "z")
positive = st.floats(1e-3, 5.0)


@pytest.mark.parametrize("messages", [2, 64])
def test_b1_and_b2_are_sharp_at_once(known, messages):
    """One atom a message, all moved by d: its score falls at its own atom, where it is low, and rises at the others."""
    step, gap = 1e-4, 6.0
    signs = 1 - 2 * np.eye(messages)
    text = signs * (gap - 2 * step) / 2
    modal = text + signs * step
    places = gap * np.arange(messages)
    scores = np.concatenate([text, modal], axis=1)
    apart = np.abs(np.subtract.outer(*(2 * [np.concatenate([places, places + step])])))
    for row in scores:  # what makes the slope of 1 certified: a function of slope 1 runs through these points
        assert (np.abs(np.subtract.outer(row, row)) <= apart + 1e-12).all()
    unit = sensitivity.LipschitzConstant(1.0, "certified", "z")
    given_y, given_c = known(step, given="(c, y)"), known(step, given="c")
    own = math.exp(-gap) / (math.exp(-gap) + messages - 1)  # the tilted share of a message's own atom, to order d
    b1 = bounds.messages(1.0, unit, given_y).value
    assert bounds.score_shift(text, modal, scale=1.0, over="messages").value / b1 == pytest.approx(1 - own, abs=1e-4)
    b2 = bounds.inputs(1.0, unit, given_y, given_c, places[-1] + step, w_inf=step)
    change = bounds.shift_bracket(text, modal, scale=1.0).terms["change"]
    assert -change / b2.value == pytest.approx(1 - own, abs=1e-4)
    assert b1 == b2.value == 2 * step


def test_sub_gaussian_form_is_an_equality_of_gaussians(known):
    """PROOFS, B5: a linear score L z of N(0, sigma^2) has a log-mean of (s L sigma)^2 / 2, moved by exactly s L W1."""
    sigma, scale, moved = 0.7, 1.5, 0.4
    nodes = np.arange(-9, 9, 1 / 64)
    masses = np.exp(-0.5 * nodes**2)
    own = np.zeros(len(nodes), int)
    tables = [SLOPE.value * (sigma * nodes + mean)[None] for mean in (0.0, moved)]
    found = bounds.shift_bracket(*tables, own, own, scale=scale, weights_text=masses, weights_modal=masses)
    given_y, given_c = known(moved, given="(c, y)"), known(moved, given="c")
    b5 = bounds.sub_gaussian(scale, SLOPE, sigma, given_y, given_c, w2_given_c=given_c)
    slope = scale * SLOPE.value
    assert found.terms["competition"] == pytest.approx(slope * moved, abs=1e-12)
    assert b5.terms["direct"] == pytest.approx(slope * moved)
    assert b5.terms["competition, W1"] == pytest.approx(slope * moved + (slope * sigma) ** 2 / 2)
    assert b5.terms["competition, W2"] == pytest.approx(slope * moved * math.exp((slope * sigma) ** 2))
    still = bounds.sub_gaussian(scale, SLOPE, sigma, given_y, known(0.0, given="c"), w2_given_c=known(0.0, given="c"))
    assert still.terms["competition"] == 0
    huge = bounds.sub_gaussian(30.0, SLOPE, 9.0, given_y, given_c, w2_given_c=given_c)
    assert huge.terms["competition, W2"] == math.inf
    assert math.isfinite(huge.value)


@hypothesis.given(scale=positive, slope=positive, moved=positive, more=st.floats(1.0, 3.0), variation=st.floats(0, 1))
def test_every_form_grows_with_s_and_starts_at_zero(known, scale, slope, moved, more, variation):
    """What B0 stands on."""
    constant = sensitivity.LipschitzConstant(slope, "certified", "z")
    given_y, given_c = known(moved, given="(c, y)"), known(moved, given="c")
    law = {"total_variation": variation, "oscillation": 3.0}

    def values(s):
        return np.array(
            [
                bounds.messages(s, constant, given_y, **law).value,
                bounds.inputs(s, constant, given_y, given_c, 5.0, w_inf=moved, **law).value,
                bounds.sub_gaussian(s, constant, 1.0, given_y, given_c, w2_given_c=given_c, **law).value,
            ]
        )

    assert (values(0.0) == 0).all()
    assert (values(scale) <= values(more * scale) * (1 + 1e-12)).all()
    assert (values(scale) >= 2 * scale * 3.0 * variation).all()


def test_two_laws_of_y_cost_what_the_text_says(known):
    given_y, given_c = known(0.1, given="(c, y)"), known(0.1, given="c")
    law = {"total_variation": 0.25, "oscillation": 2.0}
    b1 = bounds.messages(1.5, SLOPE, given_y, **law)
    assert b1.terms["message law"] == pytest.approx(2 * 3 * 0.25 + math.log(1 + 0.25 * (math.exp(3) - 1)))
    b2 = bounds.inputs(1.5, SLOPE, given_y, given_c, 1.0, **law)
    assert b2.terms["message law"] == pytest.approx(1.5)
    assert b2.value - b2.terms["message law"] == pytest.approx(bounds.inputs(1.5, SLOPE, given_y, given_c, 1.0).value)
    assert all("laws of Y" in bound.assumptions[0] for bound in (b1, b2))
    full = bounds.messages(1.0, SLOPE, given_y, total_variation=1.0, oscillation=800.0)
    assert full.terms["message law"] == pytest.approx(2400.0)  # and no overflow
    with pytest.raises(ValueError, match="give the oscillation"):
        bounds.messages(1.0, SLOPE, given_y, total_variation=0.1)
    with pytest.raises(ValueError, match=r"total_variation must lie in \[0, 1\]"):
        bounds.inputs(1.0, SLOPE, given_y, given_c, 1.0, total_variation=1.1, oscillation=1.0)


def test_supremum_holds_where_both_scales_are_below_s(known):
    b1 = bounds.messages(2.0, SLOPE, known(0.1, given="(c, y)"))
    gmi = bounds.supremum(b1, scale_text=1.0, scale_modal=np.float32(2.0))
    assert (gmi.value, gmi.kind) == (b1.value, "bound")
    assert "at most S = 2" in gmi.assumptions[-1]
    with pytest.raises(ValueError, match=r"scale_modal is 2\.5 and the bound was made for s <= 2: raise S"):
        bounds.supremum(b1, scale_text=1.0, scale_modal=2.5)
    with pytest.raises(ValueError, match="scale_text must be a finite number"):
        bounds.supremum(b1, scale_text=math.inf, scale_modal=2.0)
    exact = bounds.score_shift(np.eye(2), np.zeros((2, 2)), scale=1.0, over="messages")
    with pytest.raises(ValueError, match="exact change at one scale"):
        bounds.supremum(exact, scale_text=0.5, scale_modal=0.5)


@pytest.mark.parametrize("form", ["theorem 2", "support-restricted", "probe"])
def test_the_paper_s_forms_differ_in_what_they_assume(known, form):
    printed = bounds.paper(SLOPE, 1.0, known(0.5, given="(c, y)"), form=form)
    assert (printed.value, printed.kind, printed.scale) == (pytest.approx(1 + math.exp(2)), "bound", 1.0)
    plain = bounds.paper(SLOPE, 1.0, known(0.5, given="(c, y)"))
    assert (printed.assumptions == plain.assumptions) == (form == "theorem 2")


def indices(known):
    given_y, given_c = known(1.0, given="(c, y)"), known(1.0, given="c")

    @dataclasses.dataclass
    class Estimated:
        value: float = 1.0
        given: str = "(c, y)"
        space: str = "z"
        standard_error: float = 0.1

    for kind, reason in (("searched", "L is searched"), ("sampled", "L is sampled")):
        slope = sensitivity.LipschitzConstant(2.0, kind, "z")
        yield bounds.messages(1.0, slope, given_y), reason
        yield bounds.inputs(1.0, slope, given_y, given_c, 20.0), reason
        yield bounds.sub_gaussian(1.0, slope, 1.0, given_y, given_c), reason
        yield bounds.paper(slope, 20.0, given_y), reason
        yield bounds.supremum(bounds.messages(1.0, slope, given_y), scale_text=1.0, scale_modal=1.0), reason
    yield bounds.inputs(1.0, SLOPE, given_y, given_c, 0.5), "exceeds the diameter D = 0.5"
    yield bounds.paper(SLOPE, 0.5, given_y), "exceeds the diameter"
    yield bounds.messages(1.0, SLOPE, Estimated()), "w1 is an estimate"
    unnamed = sensitivity.LipschitzConstant(2.0, "certified", "")
    yield bounds.messages(1.0, unnamed, known(1.0, given="(c, y)", space="")), "no space is named"


def test_an_index_says_why_and_never_calls_itself_a_bound(known):
    for index, reason in indices(known):
        assert index.kind == "index"
        assert any(reason in problem for problem in index.problems)
        for text in (repr(index), str(index), index.describe()):
            assert "bound" not in text.lower()
            assert reason in text
    bound = bounds.messages(1.0, SLOPE, known(1.0, given="(c, y)"))
    assert bound.problems == ()
    assert repr(bound) == "Bound(4 nats, s=1)"
    assert "a bound" in bound.describe()
    assert bound.bits == pytest.approx(4 / math.log(2))
    exact = bounds.score_shift(np.eye(2), np.zeros((2, 2)), scale=1.0, over="messages")
    assert "exactly" in exact.describe()
    assert repr(exact).startswith("Exact(")


def test_results_are_pytrees(known):
    bound = bounds.messages(1.0, SLOPE, known(1.0, given="(c, y)"))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, bound)
    assert (doubled.value, doubled.kind, doubled.assumptions) == (8.0, "bound", bound.assumptions)


def test_inconsistencies(known):
    pooled, given_c = known(17.8, given="none", space="llm_hidden_16"), known(1.0, given="c")
    assert bounds.inconsistencies(SLOPE, 20.0, w1=given_c) == ()
    found = bounds.inconsistencies(SLOPE, 10.3, w1=pooled)
    assert [text.split(" ")[0] for text in found] == ["w1", "L"]
    assert "17.8 exceeds the diameter D = 10.3" in found[0]
    assert "'z' and w1 in 'llm_hidden_16': two spaces" in found[1]
    (found,) = bounds.inconsistencies(by_c=given_c, by_y=known(0.5, given="(c, y)"))
    assert "by_c given c = 1 exceeds by_y given (c, y) = 0.5" in found
    assert bounds.inconsistencies(by_c=given_c, by_y=known(0.5, given="(c, y)", space="other")) == ()
    with pytest.raises(ValueError, match="w1 must be"):
        bounds.inconsistencies(w1=dataclasses.replace(given_c, value=-1.0))


def test_what_cannot_be_used_is_refused(known):
    given_y, given_c = known(1.0, given="(c, y)"), known(1.0, given="c")
    with pytest.raises(ValueError, match="w2_given_c is a distance given"):
        bounds.sub_gaussian(1.0, SLOPE, 1.0, given_y, given_c, w2_given_c=given_y)
    with pytest.raises(ValueError, match="sigma must be"):
        bounds.sub_gaussian(1.0, SLOPE, -1.0, given_y, given_c)
    with pytest.raises(ValueError, match="two spaces"):
        bounds.sub_gaussian(1.0, SLOPE, 1.0, given_y, known(1.0, given="c", space="llm_final"))
    with pytest.raises(ValueError, match="form must be one of 'theorem 2'"):
        bounds.paper(SLOPE, 1.0, given_y, form="theorem 4")
    with pytest.raises(ValueError, match="scale must be a finite number >= 0, got inf; s\\* is inf"):
        bounds.messages(math.inf, SLOPE, given_y)
