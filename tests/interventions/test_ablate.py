"""Ablations cost what closed forms say, nothing where the decoder does not look, and say so with honest intervals."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import bounds, rates, stats
from gmijax import interventions as iv
from gmijax.rates import channels

KEY = jax.random.key(0)
DIMENSION, READ = 6, 3
# Reads the first columns of a rotation; its noise variance is wrong, so that B6's first-order term is not 0.
CHANNEL = channels.rotated_subspace(DIMENSION, READ, decay=1.0, scale=2.0, variance=0.5, variance_hat=0.7)
BASIS = np.linalg.svd(np.asarray(CHANNEL.gain_hat))[2].astype("f4")
SEEN, UNSEEN = BASIS[:READ], BASIS[READ:]


class GaussianDecoder:
    """The channel as `ablate` sees a decoder: one soft token, the sample's own messages as columns."""

    def __init__(self, y, channel=CHANNEL):
        self.y, self.channel, self.calls = y, channel, []

    def __call__(self, soft_tokens, mask):
        self.calls.append(len(soft_tokens))
        return self.channel.score(jnp.asarray(soft_tokens)[:, :1], self.y[None])

    def prompt_losses(self, soft_tokens, mask):
        return jnp.sum(jnp.asarray(soft_tokens) ** 2 * mask[..., None], axis=(1, 2))


def sample(n, seed=1):
    z, y = CHANNEL.sample(jax.random.key(seed), n)
    return np.asarray(z, "f4")[:, None], np.asarray(y, "f4")


def edited_channel(subspace):
    """The decoder of projected inputs reads z with the projected gain: a channel again."""
    kept = np.eye(DIMENSION) - subspace.T.astype("f8") @ subspace
    return dataclasses.replace(CHANNEL, gain_hat=np.asarray(CHANNEL.gain_hat) @ kept)


def mean_loss(channel):
    """E -l of a centred Gaussian channel."""
    error = np.asarray(channel.gain) - np.asarray(channel.gain_hat)
    residual = error @ channel.covariance @ error.T + channel.noise_covariance
    return 0.5 * np.trace(np.linalg.solve(channel.noise_covariance_hat, residual))


def out(subspace, **options):
    return partial(iv.project_out, subspace=subspace, **options)


SCALE = 0.8


@pytest.fixture(scope="module")
def gaussian():
    z, y = sample(700)
    conditions = {"none": lambda x, mask: x, "seen": out(SEEN[:2]), "unseen": out(UNSEEN), "one": out(SEEN[2:])}
    return iv.ablate(GaussianDecoder(y), z, conditions, scale=SCALE, draws=999, key=KEY)


def test_what_the_decoder_does_not_read_costs_nothing(gaussian):
    """To rounding of the scores: they are of size 10, and float32."""
    for name in ("none", "unseen"):
        effect = gaussian[name]
        np.testing.assert_allclose(effect.loss_changes, 0, atol=2e-5)
        assert abs(float(effect.rate_inputs.value)) < 1e-5
        assert abs(float(effect.rate_messages.value)) < 1e-5
        assert abs(float(effect.first_order)) < 1e-5
        assert abs(float(effect.second_order)) < 1e-9
    assert (np.asarray(gaussian["none"].loss_changes) == 0).all()
    assert gaussian["none"].p_value == 1
    assert gaussian["none"].squared_displacement == 0
    assert gaussian["unseen"].squared_displacement > 0.1


@pytest.mark.parametrize(("name", "subspace"), [("seen", SEEN[:2]), ("one", SEEN[2:])])
def test_what_it_reads_costs_the_closed_form(gaussian, name, subspace):
    """The changes of the loss and of I(s) are the vector Gaussian channel's, within 3 standard errors."""
    effect, after = gaussian[name], edited_channel(subspace)
    known = mean_loss(after) - mean_loss(CHANNEL)
    assert abs(float(effect.value) - known) < 3 * float(effect.standard_error)
    assert float(effect.standard_error) < 0.1 * abs(known)
    for over, change in (("inputs", effect.rate_inputs), ("messages", effect.rate_messages)):
        known = after.curve(SCALE, over) - CHANNEL.curve(SCALE, over)
        assert known < -0.1
        assert change.reliable
        assert abs(float(change.value) - known) < 3 * float(change.standard_error)
        assert float(change.standard_error) < 0.1 * abs(known)
    assert effect.p_value == pytest.approx(1e-3)


def test_terms_are_those_of_their_rooms(gaussian):
    z, y = sample(700)
    decoder = GaussianDecoder(y)
    before, after = (np.asarray(decoder(x, None), "f8") for x in (z, iv.project_out(z, SEEN[:2])))
    effect, own = gaussian["seen"], np.arange(700)
    terms = bounds.edit_bracket(before.T, after.T, own, scale=SCALE).terms
    np.testing.assert_allclose(effect.first_order, terms["first_order"], rtol=1e-5)
    np.testing.assert_allclose(effect.second_order, terms["second_order"], rtol=1e-5)
    changes = np.diag(before) - np.diag(after)
    np.testing.assert_allclose(effect.loss_changes, changes, atol=2e-5)
    np.testing.assert_allclose(effect.value, changes.mean(), rtol=1e-5)
    np.testing.assert_allclose(effect.standard_error, changes.std(ddof=1) / np.sqrt(700), rtol=1e-4)
    np.testing.assert_allclose(effect.relative, changes.mean() / -np.diag(before).mean(), rtol=1e-5)
    np.testing.assert_allclose(gaussian.losses, -np.diag(before), rtol=1e-5)
    for tables, change in (
        ((before.T, after.T), effect.rate_inputs),
        ((before, after), effect.rate_messages),
    ):
        old, new = (rates.gmi(np.asarray(table, "f4"), scale=SCALE) for table in tables)
        difference = rates.difference(new, old)
        np.testing.assert_allclose(change.value, difference.value, atol=2e-5)
        np.testing.assert_allclose(change.interval, difference.interval, atol=2e-5)
    moved = z - np.asarray(iv.project_out(z, SEEN[:2]))
    np.testing.assert_allclose(effect.squared_displacement, (moved**2).sum((1, 2)).mean(), rtol=1e-5)
    total = z[:, 0].var(0).sum()
    np.testing.assert_allclose(effect.variance_removed, 1 - (z - moved)[:, 0].var(0).sum() / total, rtol=1e-4)


def binary(n=8):
    """Inputs -1 and +1 with messages that follow them three times of four, and the decoder that knows it."""
    z = np.repeat([1.0, -1.0], n // 2).astype("f4")
    own = np.tile([0, 0, 0, 1], n // 4)
    own[n // 2 :] = 1 - own[n // 2 :]
    states = np.stack([z, np.zeros(n)], axis=1)[:, None].astype("f4")

    def matched(soft_tokens, mask):
        x = np.asarray(soft_tokens)[:, 0, 0]
        return np.stack([-np.log1p(np.exp(-sign * x * np.log(3))) for sign in (1, -1)], axis=1)

    return matched, states, own


def test_a_matched_decoder_has_no_first_order_term():
    """The empirical law is exactly the decoder's, so that all information goes and none by mismatch."""
    matched, states, own = binary()
    prior, axis = np.array([0.5, 0.5]), np.array([[1.0, 0.0]], "f4")
    got = iv.ablate(matched, states, {"all": out(axis)}, own, prior=prior, method="include", key=KEY)
    information = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    np.testing.assert_allclose(got.rate_messages.value, information, rtol=1e-5)
    effect = got["all"]
    np.testing.assert_allclose(effect.first_order, 0, atol=1e-7)
    np.testing.assert_allclose(effect.second_order, -information, rtol=1e-6)
    np.testing.assert_allclose(effect.rate_messages.value, -information, rtol=1e-5)
    np.testing.assert_allclose(effect.value, information, rtol=1e-5)
    assert effect.variance_removed == pytest.approx(1)
    wrong = lambda soft_tokens, mask: matched(-np.asarray(soft_tokens), mask)  # noqa: E731
    harmful = iv.ablate(wrong, states, {"all": out(axis)}, own, prior=prior, method="include", key=KEY)["all"]
    # It helps to take away what is read the wrong way round: every term in closed form.
    np.testing.assert_allclose(harmful.first_order, 0.5 * np.log(3), rtol=1e-5)
    np.testing.assert_allclose(harmful.second_order, -information, rtol=1e-5)
    np.testing.assert_allclose(harmful.value, information - 0.5 * np.log(3), rtol=1e-5)


def test_a_change_of_loss_need_not_be_one_of_information():
    """A decoder whose every score falls alike: the loss rises by 1 nat and no rate moves."""
    matched, states, own = binary()

    def shifted(soft_tokens, mask):
        return matched(soft_tokens, mask) - np.asarray(soft_tokens)[:, 0, 1:]

    conditions = {"raised": lambda x, mask: x + np.array([0, 1], "f4")}
    effect = iv.ablate(shifted, states, conditions, own, prior=[0.5, 0.5], method="include", key=KEY)["raised"]
    np.testing.assert_allclose(effect.loss_changes, 1, rtol=1e-6)
    np.testing.assert_allclose(effect.standard_error, 0, atol=1e-6)
    np.testing.assert_allclose(effect.rate_inputs.value, 0, atol=1e-6)
    np.testing.assert_allclose(effect.rate_messages.value, 0, atol=1e-6)


@pytest.mark.slow
def test_contexts_are_averaged():
    """Two contexts, scored apart and together: rates and B6's terms are means by context."""
    z, y = sample(60)
    y = np.concatenate([y[:30], y[30:] + 3])
    contexts = np.repeat([5, 2], 30)
    conditions = {"seen": out(SEEN[:1])}
    together = iv.ablate(GaussianDecoder(y), z, conditions, contexts=contexts, method="include", key=KEY)
    parts = [
        iv.ablate(GaussianDecoder(y[rows]), z[rows], conditions, method="include", key=KEY)
        for rows in (slice(0, 30), slice(30, 60))
    ]
    for name in ("first_order", "second_order", "value"):
        mean = np.mean([getattr(part["seen"], name) for part in parts])
        np.testing.assert_allclose(getattr(together["seen"], name), mean, rtol=1e-5)
    for name in ("rate_inputs", "rate_messages"):
        mean = np.mean([getattr(part["seen"], name).value for part in parts])
        np.testing.assert_allclose(getattr(together["seen"], name).value, mean, rtol=1e-4)
    change = float(together["seen"].first_order + together["seen"].second_order)
    np.testing.assert_allclose(together["seen"].rate_inputs.value, change, atol=2e-5)  # the finite law's, exactly


def test_clusters_are_the_units():
    """Every sample twice, as clusters of 2: intervals and tests of the loss are those of the samples once."""
    z, y = sample(4)
    units = np.tile(np.arange(4), 2)
    conditions = {"seen": out(SEEN[:1]), "one": out(SEEN[1:2])}
    decoder, twice = GaussianDecoder(y), np.tile(z, (2, 1, 1))
    got = iv.ablate(decoder, twice, conditions, units, clusters=units + 5, method="include", key=KEY)
    before = np.diag(decoder(z, None))
    changes = {name: before - np.diag(decoder(edit(z), None)) for name, edit in conditions.items()}
    changes["contrast"] = changes["seen"] - changes["one"]
    effects = {**got.effects, "contrast": iv.contrast(got, "seen", "one", key=KEY)}
    for name, expected in changes.items():
        np.testing.assert_allclose(effects[name].value, expected.mean(), rtol=1e-4)
        np.testing.assert_allclose(effects[name].standard_error, expected.std(ddof=1) / 2, rtol=1e-4)
        np.testing.assert_allclose(effects[name].p_value, stats.sign_flip_test(expected, key=KEY).p_value)
    table = np.asarray(decoder(z, None))
    rate = rates.gmi(np.tile(table.T, (2, 2)), clusters=units, method="include", scale=1.0)
    np.testing.assert_allclose(got.rate_inputs.standard_error, rate.standard_error, rtol=1e-4)
    np.testing.assert_allclose(got.rate_inputs.interval, rate.interval, rtol=1e-4)


def test_saturated_rates_are_told():
    """Far apart messages, few samples: both rates are capped, and compared as the bound they are."""
    z, y = np.eye(8, dtype="f4")[:, None], np.eye(8, dtype="f4")
    far = lambda x, mask: -20 * np.sum((np.asarray(x) - y) ** 2, axis=-1)  # noqa: E731
    change = iv.ablate(far, z, {"all": out(np.eye(8)[:2])}, key=KEY)["all"].rate_inputs
    assert change.saturated
    assert not change.reliable
    assert change.value < 0


def test_calls_and_chunks():
    """One call for all conditions by default; fewer at a time change nothing."""
    z, y = sample(8)
    conditions = {f"mode {i}": out(BASIS[i : i + 1]) for i in range(3)}
    decoder = GaussianDecoder(y)
    together = iv.ablate(decoder, z, conditions, method="include", key=KEY)
    assert decoder.calls == [32]
    decoder.calls = []
    chunked = iv.ablate(decoder, z, conditions, conditions_per_call=2, method="include", key=KEY)
    assert decoder.calls == [24, 8]
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert list(together.effects) == list(conditions)


def test_prompt_target():
    z, y = sample(30)
    z = np.repeat(z, 2, axis=1)
    mask = np.arange(60).reshape(30, 2) % 5 > 0
    got = iv.ablate(GaussianDecoder(y), z, {"seen": out(SEEN)}, mask=mask, target="prompt", key=KEY)
    decoder = GaussianDecoder(y)
    before, after = (decoder.prompt_losses(x, mask) for x in (z, iv.project_out(z, SEEN, mask=mask)))
    np.testing.assert_allclose(got["seen"].loss_changes, after - before, atol=1e-5)
    assert got.target == "prompt"
    assert got["seen"].rate_inputs is None
    assert got.rate_messages is None
    with pytest.raises(TypeError, match="prompt_losses"):
        iv.ablate(decoder.__call__, z, {"seen": out(SEEN)}, target="prompt", key=KEY)
    with pytest.raises(ValueError, match="of no use"):
        iv.ablate(decoder, z, {"seen": out(SEEN)}, np.arange(30), target="prompt", key=KEY)
    decoder.prompt_losses = lambda soft_tokens, mask: np.full(len(soft_tokens), np.nan)
    with pytest.raises(ValueError, match="finite losses"):
        iv.ablate(decoder, z, {"seen": out(SEEN)}, target="prompt", key=KEY)


def test_contrasts_are_paired(gaussian):
    got = iv.contrast(gaussian, "seen", "one", key=KEY)
    gap = np.asarray(gaussian["seen"].loss_changes - gaussian["one"].loss_changes)
    np.testing.assert_allclose(got.value, gap.mean(), rtol=1e-4)
    np.testing.assert_allclose(got.standard_error, gap.std(ddof=1) / np.sqrt(700), rtol=1e-4)
    assert got.n == 700
    mean = iv.contrast(gaussian, "seen", ["seen", "one"], key=KEY)
    np.testing.assert_allclose(mean.value, got.value / 2, rtol=1e-4)
    same = iv.contrast(gaussian, "one", ["one", "one"], key=KEY)
    assert (same.value, same.p_value) == (0, 1)
    for first, second in (("other", "one"), ("one", ["seen", "other"])):
        with pytest.raises(KeyError, match="unknown condition 'other'; there are 'none', 'seen', 'unseen', 'one'"):
            iv.contrast(gaussian, first, second, key=KEY)
    with pytest.raises(KeyError, match="unknown condition"):
        gaussian["MS"]
    with pytest.raises(ValueError, match="at least one condition"):
        iv.contrast(gaussian, "one", [], key=KEY)


def test_bad_input_is_told_before_the_decoder_runs():
    z, y = sample(12)
    mask = np.ones((12, 1), bool)
    mask[3] = False
    decoder = GaussianDecoder(y)
    for changes, message in (
        ({"conditions": {}}, "conditions is empty"),
        ({"conditions": {"a": "project_out"}}, "condition 'a' must be an edit, .* got str"),
        ({"conditions": {"a": lambda x, mask: x[:5]}}, r"condition 'a' turned states of shape \(12, 1, 6\) into \(5,"),
        ({"conditions": {"a": lambda x, mask: x * np.nan}}, "condition 'a' made states that are NaN"),
        ({"conditions": {"a": lambda x, mask: x + 1}, "mask": mask}, "condition 'a' changed padding"),
        ({"conditions": {"a": out(SEEN[:, :5])}}, "subspace"),
        ({"conditions": {"a": out(2 * SEEN)}}, "not orthonormal"),
        ({"conditions": {"a": lambda x, mask: iv.project_out(x, SEEN, mask=mask & False)}}, "matched no position"),
        ({"mask": np.zeros((12, 1), bool)}, "matched no position"),
        ({"soft_tokens": z[:1]}, "paired intervals need 2 samples"),
        ({"soft_tokens": z[:, 0]}, r"soft_tokens must be \(n, tokens, width\)"),
        ({"soft_tokens": z * np.inf}, "NaN or infinite"),
        ({"messages": np.arange(5)}, r"messages must have shape \(12,\)"),
        ({"messages": np.arange(12.0)}, "messages must be integers"),
        ({"messages": -np.arange(12)}, "messages"),
        ({"contexts": np.zeros(3, int)}, r"contexts must have shape \(12,\)"),
        ({"contexts": np.arange(12)}, "no alternatives"),
        ({"clusters": np.arange(5)}, r"each of the 12 samples, got shape \(5,\)"),
        ({"clusters": np.zeros(12, int)}, "at least 2 units"),
        ({"target": "transcript"}, "target must be one of 'message', 'prompt', got 'transcript'"),
        ({"method": "plain"}, "method must be one of"),
        ({"scale": 0.0}, "scale must be one finite number > 0"),
        ({"scale": np.inf}, "scale must be one finite number > 0"),
        ({"level": 2.0}, "level must lie strictly"),
        ({"conditions_per_call": 0}, "conditions_per_call must be at least 1"),
    ):
        given = {"soft_tokens": z, "conditions": {"a": out(SEEN)}, **changes}
        with pytest.raises(ValueError, match=message):
            iv.ablate(decoder, **given, key=KEY)
    assert decoder.calls == []


def test_bad_scores_are_told():
    z = sample(12)[0]
    conditions = {"a": out(SEEN)}
    for scores, messages, message in (
        (lambda x, mask: np.zeros((5, 12)), None, "one row for each of 24 inputs"),
        (lambda x, mask: np.full((24, 12), np.nan), None, "scores holds 288 NaN"),
        (lambda x, mask: np.zeros((24, 3)), None, "messages must be given"),
        (lambda x, mask: np.zeros((24, 3)), np.arange(12), r"messages\[3\] = 3 is outside the 3 columns"),
    ):
        with pytest.raises(ValueError, match=message):
            iv.ablate(scores, z, conditions, messages, key=KEY)


@pytest.mark.slow
def test_intervals_cover():
    """Changes of the loss and of I(s) in both directions: 92 to 98 % of 300 samples of 200."""
    decoder_after = edited_channel(SEEN[:1])
    known = [
        mean_loss(decoder_after) - mean_loss(CHANNEL),
        *(decoder_after.curve(0.5, over) - CHANNEL.curve(0.5, over) for over in ("inputs", "messages")),
    ]
    covered = []
    for seed in range(300):
        z, y = sample(200, seed)
        got = iv.ablate(GaussianDecoder(y), z, {"a": out(SEEN[:1])}, scale=0.5, draws=9, key=KEY)["a"]
        intervals = (got.interval, got.rate_inputs.interval, got.rate_messages.interval)
        covered.append([i.lower <= truth <= i.upper for i, truth in zip(intervals, known, strict=True)])
    share = np.mean(covered, axis=0)
    assert np.all((share > 0.92) & (share < 0.98)), share
