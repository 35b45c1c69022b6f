"""The score-space bounds as functions of arrays: definitions as loops, traces, gradients, two laws of Y."""

import math

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from gmijax import bounds
from gmijax.bounds import _kernels

seeds = st.integers(0, 2**32 - 1)
MESSAGES, ATOMS = 3, 7


def pair(seed, *, shared=True, zeros=True):
    """Scores and masses of two laws; message 2 may be missing under one of them where the shares differ."""
    rng = np.random.default_rng(seed)
    own = np.array([0, 0, 0, 1, 1, 2, 2])
    text, modal = 2 * rng.normal(size=(2, MESSAGES, ATOMS))
    masses = rng.dirichlet(np.ones(ATOMS), 2)
    if zeros:
        masses[0, 0] = 0
    if shared:
        prior = [np.bincount(own, mass, MESSAGES) for mass in masses]
        masses[1] *= (prior[0] / prior[1])[own]
    elif seed % 3 == 0:
        masses[1, own == 2] = 0
    masses /= masses.sum(axis=1, keepdims=True)
    return text, modal, own, masses


def log_mean(values, masses):
    return math.log(sum(m * math.exp(v) for v, m in zip(values, masses, strict=True) if m > 0))


def information(scores, own, masses, scale, over):
    """I(s) from the definition, by loops."""
    prior = [sum(m for m, o in zip(masses, own, strict=True) if o == y) for y in range(MESSAGES)]
    total = 0.0
    for j, (mass, y) in enumerate(zip(masses, own, strict=True)):
        if mass > 0:
            values, weights = (scores[y], masses) if over == "inputs" else (scores[:, j], prior)
            total += mass * (scale * scores[y, j] - log_mean(scale * values, weights))
    return total


@hypothesis.given(seed=seeds, scale=st.floats(0.0, 3.0), shared=st.booleans())
def test_changes_and_bounds_against_the_definition(seed, scale, shared):
    text, modal, own, masses = pair(seed, shared=shared)
    law = {"weights_text": masses[0], "weights_modal": masses[1]}
    change = {
        over: information(modal, own, masses[1], scale, over) - information(text, own, masses[0], scale, over)
        for over in ("inputs", "messages")
    }
    b3 = bounds.score_shift(text, modal, own, own, scale=scale, **law)
    assert abs(change["inputs"]) <= b3.value + 1e-11
    assert b3.value == pytest.approx(sum(b3.terms[part] for part in ("direct", "competition", "message law")))
    exact = bounds.score_shift(text, modal, own, own, scale=scale, over="messages", **law)
    assert exact.terms["change"] == pytest.approx(change["messages"], abs=1e-11)
    if not shared:
        variation = 0.5 * sum(abs(np.bincount(own, masses[1], 3) - np.bincount(own, masses[0], 3)))
        oscillation = max(np.ptp(text, axis=1).max(), np.ptp(modal, axis=1).max())
        assert b3.terms["total_variation"] == pytest.approx(variation)
        assert 0 <= b3.terms["message law"] <= 2 * scale * oscillation * variation + 1e-11
        assert "laws of Y" in b3.assumptions[0]
        return
    assert b3.terms["message law"] == pytest.approx(0, abs=1e-12)
    assert exact.terms["message law"] == pytest.approx(0, abs=1e-12)
    b4 = bounds.shift_bracket(text, modal, own, own, scale=scale, **law)
    assert b4.terms["change"] == pytest.approx(change["inputs"], abs=1e-11)
    assert b4.lower - 1e-11 <= change["inputs"] <= b4.upper + 1e-11
    assert b4.terms["competition, upper"] - b4.terms["competition"] >= -1e-11
    # B4's second half: the sandwich lies within the W2 form, by Cauchy and Schwarz.
    widest = max(abs(b4.terms["competition, lower"]), abs(b4.terms["competition, upper"]))
    assert widest <= b3.terms["competition, W2"] + 1e-11


@hypothesis.given(seed=seeds, scale=st.floats(0.1, 3.0))
def test_edits_against_the_definition(seed, scale):
    text, modal, own, masses = pair(seed)
    b6 = bounds.edit_bracket(text, modal, own, scale=scale, weights=masses[0])
    change = information(modal, own, masses[0], scale, "inputs") - information(text, own, masses[0], scale, "inputs")
    assert b6.terms["change"] == pytest.approx(change, abs=1e-11)
    assert b6.lower - 1e-11 <= change <= b6.upper + 1e-11
    assert b6.terms["second_order, lower"] - 1e-11 <= b6.terms["second_order"] <= 1e-11
    assert b6.terms["second_order"] <= b6.terms["second_order, upper"] + 1e-11
    # A shift of all scores of a message by its own constant moves nothing over inputs.
    shifted = modal + np.arange(MESSAGES)[:, None]
    other = bounds.edit_bracket(text, shifted, own, scale=scale, weights=masses[0])
    assert (other.lower, other.upper) == pytest.approx((b6.lower, b6.upper), abs=1e-10)


@hypothesis.given(seed=seeds)
def test_a_matched_decoder_has_no_first_order_term(seed):
    """s = 1 and the score log P(y | z): the tilt is P(z | y), and any edit is a loss."""
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.ones(12)).reshape(4, 3)  # (inputs, messages)
    log_posterior = np.log(joint / joint.sum(axis=1, keepdims=True))
    scores, own = np.repeat(log_posterior.T, 3, axis=1), np.tile(np.arange(3), 4)
    after = scores + np.repeat(rng.normal(size=(3, 4)), 3, axis=1)  # an edit acts on z, whatever it carries
    b6 = bounds.edit_bracket(scores, after, own, scale=1.0, weights=joint.ravel())
    assert b6.terms["first_order"] == pytest.approx(0, abs=1e-12)
    assert b6.terms["change"] <= 1e-12


def test_variance_factor_is_smooth_where_it_switches_forms():
    swings = np.array([-50.0, -1e-2, -9.999e-3, -1e-9, 0.0, 1e-9, 9.999e-3, 1e-2, 50.0])
    expected = [(math.expm1(r) - r) / r**2 if abs(r) > 1e-3 else 0.5 + r / 6 for r in swings]
    with jax.enable_x64(True):
        assert _kernels.variance_factor(jnp.asarray(swings)) == pytest.approx(expected, rel=1e-11)


def test_columns_carry_their_own_messages_by_default():
    text, modal = np.random.default_rng(0).normal(size=(2, 5, 5))
    own = np.arange(5)
    assert bounds.score_shift(text, modal, scale=1.0) == bounds.score_shift(text, modal, own, own, scale=1.0)
    assert bounds.shift_bracket(text, modal, scale=1.0) == bounds.shift_bracket(text, modal, own, own, scale=1.0)
    assert bounds.edit_bracket(text, modal, scale=1.0) == bounds.edit_bracket(text, modal, own, scale=1.0)
    repeated = np.repeat(modal, 2, axis=1)  # another number of atoms of the other law, each message twice
    wide = bounds.score_shift(text, repeated, None, np.repeat(own, 2), scale=1.0)
    assert wide.value == pytest.approx(bounds.score_shift(text, modal, scale=1.0).value, abs=1e-12)
    with pytest.raises(ValueError, match="messages_modal may be left out only where column j carries message j"):
        bounds.score_shift(text, repeated, scale=1.0)
    with pytest.raises(ValueError, match="5 messages and scores_modal 4"):
        bounds.score_shift(text, modal[:4, :4], scale=1.0)


def functions():
    own = np.array([0, 0, 0, 1, 1, 2, 2])

    def shift(over):
        return lambda text, modal, masses, scale: bounds.score_shift(
            text, modal, own, own, scale=scale, over=over, weights_text=masses[0], weights_modal=masses[1]
        )

    return {
        "B3": shift("inputs"),
        "B3 over messages": shift("messages"),
        "B4": lambda text, modal, masses, scale: bounds.shift_bracket(
            text, modal, own, own, scale=scale, weights_text=masses[0], weights_modal=masses[1]
        ),
        "B6": lambda text, modal, masses, scale: bounds.edit_bracket(text, modal, own, scale=scale, weights=masses[0]),
    }


def numbers(result):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result)])


@pytest.mark.parametrize("name", functions())
def test_a_batch_under_jit_is_the_plain_calls(name):
    batch = [(text, modal, masses) for text, modal, _, masses in (pair(seed, zeros=False) for seed in range(5))]
    scales = np.linspace(0.5, 2, 5)
    plain = [functions()[name](*laws, scale) for laws, scale in zip(batch, scales, strict=True)]
    with jax.enable_x64(True):
        batched = jax.jit(jax.vmap(functions()[name]))(*map(np.stack, zip(*batch, strict=True)), scales)
    for k, result in enumerate(plain):
        alone = jax.tree.map(lambda leaf, k=k: leaf[k], batched)
        assert numbers(alone) == pytest.approx(numbers(result), abs=1e-12)
    single = jax.jit(functions()[name])(*map(np.float32, batch[0]), np.float32(0.5))
    assert single.scale.dtype == np.float32
    assert numbers(single) == pytest.approx(numbers(plain[0]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["B3", "B4", "B6"])
def test_gradients_agree_with_finite_differences(name, x64):
    text, modal, _, masses = pair(1, zeros=False)

    def ends(modal):
        result = functions()[name](text, modal, masses, 1.0)
        return result.value if name == "B3" else result.lower + 2 * result.upper

    slope = jax.grad(ends)(jnp.asarray(modal))
    assert np.isfinite(slope).all()
    step = 1e-6
    for index in [(0, 0), (1, 4), (2, 6)]:
        moved = np.zeros_like(modal)
        moved[index] = step
        numeric = (ends(modal + moved) - ends(modal - moved)) / (2 * step)
        assert float(slope[index]) == pytest.approx(numeric, abs=1e-6)


def test_one_program_serves_all_values():
    traced = chex.assert_max_traces(_kernels.edit.__wrapped__, n=1)
    run = jax.jit(traced)
    for seed in range(3):
        text, modal, own, masses = pair(seed)
        run(*(_kernels.Law(scores, own, masses[0]) for scores in (text, modal)), float(seed))


def test_shapes_are_checked_under_a_trace():
    with pytest.raises(ValueError, match="scores_modal must be a finite matrix"):
        jax.jit(lambda x: bounds.score_shift(x, x[0], scale=1.0))(np.ones((2, 2)))
    with pytest.raises(ValueError, match="the same ones under both laws"):
        jax.jit(lambda x: bounds.score_shift(x, x[:1, :1], scale=1.0))(np.ones((2, 2)))
    with pytest.raises(ValueError, match="same atoms"):
        jax.jit(lambda x: bounds.edit_bracket(x, x[:1, :1], scale=1.0))(np.ones((2, 2)))
