"""Every bound holds on every channel with known rates, against perturbed versions of its law."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import bounds, distances, rates, sensitivity
from gmijax.testing import oracles
from gmijax.testing._oracle_answers import CHANNELS

ENTRIES = [
    entry
    for entry in oracles.read(Path(__file__).parents[1] / "fixtures" / "oracles.json")
    if entry["family"] not in ("bound_example", "estimator_expectation")
]
TABLES = ("asymmetric_binary", "bsc", "conditional_dmc", "degenerate", "dmc")
INPUTS, MESSAGES = 8, 8  # every table is padded to this, so that one program serves all
FLOOR = -40.0  # bounds take finite scores; a decoder's log 0 is clipped there
PLACES = np.arange(INPUTS)
ROUNDING = 1e-10


def padded(channel):
    """The contexts of a channel: P(c), P(x, y | c) and clipped scores, each (inputs, messages)."""
    joint, scores = channel.table()
    joint, scores = (np.reshape(table, (-1, *np.shape(table)[-2:])) for table in (joint, scores))
    room = [(0, 0), (0, INPUTS - joint.shape[1]), (0, MESSAGES - joint.shape[2])]
    scores = np.where(np.isfinite(scores), np.maximum(scores, FLOOR), FLOOR)
    shares = joint.sum(axis=(1, 2))
    return shares, np.pad(joint / shares[:, None, None], room), np.pad(scores, room)


def perturbed(joint, seed):
    """Laws beside a channel's: blurred and partly swapped inputs at the same P(y), and another P(y)."""
    rng = np.random.default_rng(seed)
    used = joint.sum(axis=1) > 0
    order = np.flatnonzero(used)
    swapped = joint.copy()
    swapped[order] = joint[rng.permutation(order)]
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    tilted = joint * rng.uniform(0.2, 1, MESSAGES)
    return {
        "blurred": 0.7 * joint + 0.3 * product,
        "swapped": 0.5 * joint + 0.5 * swapped,
        "another P(y)": tilted / tilted.sum(),
    }


def as_atoms(joint, scores):
    """Pairs (x, y) as atoms: l(x, .) by columns, the message carried, the masses."""
    return np.repeat(scores.T, MESSAGES, axis=1), np.tile(np.arange(MESSAGES), INPUTS), joint.ravel()


@jax.jit
def curves(before, after, scores, scale):
    return [
        rates.curve_exact(joint, scores, scale, over=over)
        for joint in (before, after)
        for over in ("inputs", "messages")
    ]


@jax.jit
def transport(before, after):
    """E W1 given y over what both laws share, and W1, W2 and W_inf of x, on the line."""
    prior = jnp.minimum(before.sum(axis=0), after.sum(axis=0))
    given = [distances.w1_line(PLACES, PLACES, before[:, y], after[:, y]) for y in range(MESSAGES)]
    given = jnp.where(prior > 0, jnp.stack(given), 0)  # nan where a message never occurs
    pooled = before.sum(axis=1), after.sum(axis=1)
    forms = (distances.w1_line, distances.w2_line, distances.w_inf_line)
    return jnp.array([jnp.sum(prior * given), *(form(PLACES, PLACES, *pooled) for form in forms)])


def check_pair(known, text, modal, scores, scale):
    with jax.enable_x64(True):
        text_in, text_msg, modal_in, modal_msg = (float(v) for v in curves(text, modal, scores, scale))
        given_y, given_c, second, farthest = (float(v) for v in transport(text, modal))
    table, own, masses = as_atoms(text, scores)
    weights = {"weights_text": masses, "weights_modal": modal.ravel()}
    b3 = bounds.score_shift(table, table, own, own, scale=scale, **weights)
    assert abs(modal_in - text_in) <= b3.value + ROUNDING
    exact = bounds.score_shift(table, table, own, own, scale=scale, over="messages", **weights)
    assert exact.terms["change"] == pytest.approx(modal_msg - text_msg, abs=ROUNDING)
    assert exact.terms["inputs"] + exact.terms["message law"] == pytest.approx(exact.terms["change"], abs=1e-12)

    occurs, used = (text + modal).sum(axis=0) > 0, (text + modal).sum(axis=1) > 0
    slope = np.abs(np.diff(scores, axis=0)).max()  # of the scores interpolated between places
    law = {"total_variation": min(1.0, 0.5 * np.abs(text.sum(axis=0) - modal.sum(axis=0)).sum())}
    if law["total_variation"] < 1e-12:
        law["total_variation"] = 0.0
        b4 = bounds.shift_bracket(table, table, own, own, scale=scale, **weights)
        assert b4.lower - ROUNDING <= modal_in - text_in <= b4.upper + ROUNDING
        assert b4.terms["change"] == pytest.approx(modal_in - text_in, abs=ROUNDING)
    certified = sensitivity.LipschitzConstant(float(slope), "certified", "places")
    by_y, by_c, by_c_second = (
        known(value, given=given, space="places")
        for value, given in ((given_y, "(c, y)"), (given_c, "c"), (second, "c"))
    )
    seen = scores[used][:, occurs]
    both = law | {"oscillation": float(np.ptp(seen))}
    mine = law | {"oscillation": float(np.ptp(seen, axis=0).max())}
    width = INPUTS - 1.0
    b1 = bounds.messages(scale, certified, by_y, **both)
    b2 = bounds.inputs(scale, certified, by_y, by_c, width, w_inf=farthest, **mine)
    b5 = bounds.sub_gaussian(scale, certified, width / 2, by_y, by_c, w2_given_c=by_c_second, **mine)
    assert {b1.kind, b2.kind, b3.kind, b5.kind} == {"bound"}
    assert abs(modal_msg - text_msg) <= b1.value + ROUNDING
    assert abs(modal_in - text_in) <= b2.value + ROUNDING
    assert abs(modal_in - text_in) <= b5.value + ROUNDING
    assert b3.value <= b2.value + ROUNDING


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["family"] in TABLES], ids=lambda entry: entry["id"])
def test_bounds_hold_between_a_channel_and_perturbed_ones(known, entry):
    """On the channel's own finite law, at its own s*: its I(s) is the file's, and every bound holds."""
    channel = CHANNELS[entry["family"]](entry["params"])
    shares, joints, scores = padded(channel)
    stored = entry["quantities"]["gmi"]
    scale = min(float(stored.get("s_star", 1.0)), 3.0) or 1.0
    seed = zlib.crc32(entry["id"].encode())
    changes = np.zeros(2)
    for share, joint, table in zip(shares, joints, scores, strict=True):
        for modal in perturbed(joint, seed).values():
            check_pair(known, joint, modal, table, scale)
        atoms, own, masses = as_atoms(joint, table)
        moved = np.roll(table, 1, axis=0)
        b6 = bounds.edit_bracket(atoms, as_atoms(joint, moved)[0], own, scale=scale, weights=masses)
        with jax.enable_x64(True):
            before, _, after, _ = (float(v) for v in curves(joint, joint, table, scale))
            after = float(rates.curve_exact(joint, moved, scale))
        assert b6.terms["change"] == pytest.approx(after - before, abs=ROUNDING)
        assert b6.lower - ROUNDING <= after - before <= b6.upper + ROUNDING
        low, high = (b6.terms[f"second_order, {end}"] for end in ("lower", "upper"))
        assert low - ROUNDING <= b6.terms["second_order"] <= high + ROUNDING
        changes += share * np.array([before, after])
    if np.isfinite(channel.table()[1]).all():
        assert changes[0] == pytest.approx(float(channel.curve(np.array([scale]))[0]), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["id"])
def test_brackets_and_scores_hold_on_samples_of_every_channel(entry):
    """The finite law of 24 sampled pairs, with inputs exchanged or moved: B3, B4 and B6 are about exactly that."""
    channel = CHANNELS[entry["family"]](entry["params"])
    x, y = channel.sample(jax.random.key(zlib.crc32(entry["id"].encode())), 24)
    moved = [jnp.concatenate([x[:12][::-1], x[12:]])]
    if jnp.issubdtype(x.dtype, jnp.floating):
        moved.append(1.05 * x + 0.1)
    text, *modal = (np.maximum(np.asarray(channel.score_matrix(z, y), np.float64), FLOOR) for z in (x, *moved))
    for table in modal:
        for scale in (0.5, 1.0, 2.0):
            before, after = (information(scores, scale) for scores in (text, table))
            change = after - before
            assert abs(change[0]) <= bounds.score_shift(text, table, scale=scale).value + ROUNDING * (
                1 + abs(text).max()
            )
            exact = bounds.score_shift(text, table, scale=scale, over="messages")
            assert exact.terms["change"] == pytest.approx(change[1], abs=1e-9)
            for bracket in (bounds.shift_bracket, bounds.edit_bracket):
                found = bracket(text, table, scale=scale)
                assert found.terms["change"] == pytest.approx(change[0], abs=1e-9)
                assert found.lower - 1e-9 <= change[0] <= found.upper + 1e-9


def information(scores, scale):
    """I(s) over inputs and over messages of equally likely pairs, as the definition has it."""
    own = scale * np.diagonal(scores)
    return np.array(
        [np.mean(own - np.logaddexp.reduce(scale * scores, axis=axis) + np.log(len(scores))) for axis in (1, 0)]
    )
