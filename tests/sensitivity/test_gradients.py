"""Gradients and slopes: closed forms, finite differences, padding, batching, tracing, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import sensitivity


def score(operands, z, sign):
    return sign * jnp.sum(jnp.tanh(z * operands), axis=(1, 2))


def test_norms_are_those_of_the_gradient_whatever_the_batch():
    rng = np.random.default_rng(0)
    z, sign = rng.normal(size=(7, 3, 2)).astype(np.float32), np.array([1, -1, 1, 1, -1, 1, 1], np.float32)
    weights = jnp.asarray([0.5, 2.0])
    expected = np.asarray(weights) / np.cosh(z * np.asarray(weights)) ** 2
    for batch in (1, 3, 16):
        norms = sensitivity.gradient_norms(score, z, sign, operands=weights, batch_size=batch)
        np.testing.assert_allclose(norms, np.sqrt((expected**2).sum((1, 2))), rtol=1e-5)
    tokens = sensitivity.gradient_norms(score, z, sign, operands=weights, per_token=True)
    np.testing.assert_allclose(tokens, np.sqrt((expected**2).sum(-1)), rtol=1e-5)


def test_linear_score_has_the_norm_of_its_weights():
    weights = np.random.default_rng(1).normal(size=(4, 5))
    points = np.random.default_rng(2).normal(size=(6, 4, 5)).astype(np.float32)
    norms = sensitivity.gradient_norms(lambda w, z: jnp.einsum("btd,td->b", z, w), points, operands=weights)
    np.testing.assert_allclose(norms, np.linalg.norm(weights), rtol=1e-6)


def test_norms_match_finite_differences(x64):
    rng = np.random.default_rng(3)
    weights, points, step = rng.normal(size=(6, 6)), rng.normal(size=(4, 2, 3)), 1e-6

    def nonlinear(w, z):
        return jnp.log(jnp.sum(jnp.exp(z.reshape(len(z), -1) @ w), axis=1))

    moves = step * np.eye(6).reshape(6, 2, 3)
    slopes = [np.asarray(nonlinear(weights, points + m) - nonlinear(weights, points - m)) / (2 * step) for m in moves]
    norms = sensitivity.gradient_norms(nonlinear, points, operands=weights, batch_size=3)
    np.testing.assert_allclose(norms, np.linalg.norm(slopes, axis=0), rtol=1e-7)


def test_bfloat16_gradients_are_summed_in_float32():
    points = jnp.ones((2, 64, 64), jnp.bfloat16)
    norms = sensitivity.gradient_norms(lambda _, z: jnp.sum(z, axis=(1, 2)), points)
    assert norms.dtype == np.float32
    np.testing.assert_allclose(norms, 64.0)


def test_directional_derivatives_are_slopes_along_lines(x64):
    rng = np.random.default_rng(4)
    weights, points, directions = rng.normal(size=(3, 2)), rng.normal(size=(5, 3, 2)), rng.normal(size=(4, 3, 2))
    sign = np.ones(5)
    got = sensitivity.directional_derivatives(score, points, directions, sign, operands=weights, batch_size=2)
    step = 1e-6
    for k, direction in enumerate(directions):
        ends = [score(weights, jnp.asarray(points + s * direction), sign) for s in (step, -step)]
        np.testing.assert_allclose(got[:, k], np.asarray(ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-8)


def test_a_token_direction_moves_every_token_that_is_not_padding(x64):
    rng = np.random.default_rng(5)
    weights, points, direction = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2)), rng.normal(size=(1, 2))
    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    sign = np.ones(4)
    got = sensitivity.directional_derivatives(score, points, direction, sign, operands=weights, mask=mask)
    for i in range(4):
        block = np.where(mask[i][:, None], direction, 0.0)[None]
        one = sensitivity.directional_derivatives(
            score, points[i : i + 1], block, sign[:1], operands=weights, mask=mask[i : i + 1]
        )
        np.testing.assert_allclose(got[i], one[0], rtol=1e-12)


def coupled(operands, z):
    """A score that (wrongly) reads padding."""
    return jnp.sum(operands * z, axis=(1, 2)) ** 2


def test_padding_has_no_gradient_and_is_not_read():
    rng = np.random.default_rng(6)
    points, mask = rng.normal(size=(3, 4, 2)).astype("f4"), np.array([[1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1]])
    filled = np.where(mask[..., None], points, 0)
    for rubbish in (np.nan, np.inf, 1e30):
        spoilt = np.where(mask[..., None], points, np.float32(rubbish))
        got = sensitivity.gradients(coupled, spoilt, operands=jnp.asarray([1.0, 2.0]), mask=mask)
        assert (got[mask == 0] == 0).all()
        tokens = sensitivity.gradient_norms(
            coupled, spoilt, operands=jnp.asarray([1.0, 2.0]), mask=mask, per_token=True
        )
        assert (tokens[mask == 0] == 0).all()
        whole = sensitivity.gradient_norms(coupled, spoilt, operands=jnp.asarray([1.0, 2.0]), mask=mask)
        expected = 2 * abs((filled * [1, 2]).sum((1, 2))) * np.sqrt(5 * mask.sum(1))
        np.testing.assert_allclose(whole, expected, rtol=1e-5)
        np.testing.assert_allclose(whole, np.sqrt((tokens**2).sum(1)), rtol=1e-6)


@given(scale=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_norms_scale_with_the_score_and_turn_with_the_points(scale, seed):
    """|grad of a l| = a |grad l|, and a rotation of z in the score leaves the norms at the points turned back."""
    rng = np.random.default_rng(seed)
    points, weights = rng.normal(size=(4, 3)).astype("f4"), rng.normal(size=3).astype("f4")
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype("f4")
    plain = sensitivity.gradient_norms(turned, points, operands=(weights, np.eye(3, dtype="f4"), np.float32(1)))
    scaled = sensitivity.gradient_norms(turned, points, operands=(weights, np.eye(3, dtype="f4"), np.float32(scale)))
    rotated = sensitivity.gradient_norms(turned, points @ turn.T, operands=(weights, turn, np.float32(1)))
    np.testing.assert_allclose(scaled, scale * plain, rtol=1e-5)
    np.testing.assert_allclose(rotated, plain, rtol=1e-4, atol=1e-6)


def turned(operands, z):
    weights, turn, scale = operands
    return scale * jnp.sum(jnp.sin(z @ turn) * weights, axis=1)


def test_under_jit_and_vmap_as_outside(strict):
    rng = np.random.default_rng(7)
    points, sign = rng.normal(size=(2, 5, 3, 2)).astype("f4"), np.ones((2, 5), "f4")
    weights, directions = jnp.ones((1, 1, 2)), rng.normal(size=(2, 3, 2)).astype("f4")

    def norms(z, s):
        return sensitivity.gradient_norms(rank_strict, z, s, operands=weights)

    def slopes(z, s):
        return sensitivity.directional_derivatives(rank_strict, z, directions, s, operands=weights)

    for function in (norms, slopes):
        outside = np.stack([function(z, s) for z, s in zip(points, sign, strict=True)])
        np.testing.assert_allclose(jax.jit(function)(points[0], sign[0]), outside[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(jax.vmap(function)(points, sign), outside, rtol=1e-6, atol=1e-6)


def waves(weights, z):
    return jnp.sum(jnp.sin(weights * z), axis=1)


def test_weights_may_be_traced_where_points_are_not():
    points = np.random.default_rng(8).normal(size=(7, 3)).astype("f4")

    def norms(weights):
        return sensitivity.gradient_norms(
            lambda w, z: jnp.sum(jnp.sin(w * z), axis=1), points, operands=weights, batch_size=3
        )

    weights = jnp.asarray([1.0, 2.0, 3.0])
    inside = jax.jit(norms)(weights)
    assert inside.shape == (7,)
    np.testing.assert_allclose(inside, norms(weights), rtol=1e-5)


def rank_strict(operands, z, sign):
    return sign * jnp.sum(jnp.tanh(z * operands), axis=(1, 2))


def test_one_program_serves_all_batches_and_calls():
    traces = []

    def counted(operands, z):
        traces.append(z.shape)
        return jnp.sum(z**2, axis=1)

    for n in (7, 12, 5):
        norms = sensitivity.gradient_norms(counted, np.ones((n, 3), "f4"), batch_size=5)
        np.testing.assert_allclose(norms, 2 * 3**0.5, rtol=1e-6)
    assert traces == [(5, 3)]


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from gmijax import sensitivity

rng = np.random.default_rng(0)
weights, points = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), rng.normal(size=(16, 3, 2)).astype("f4")
directions = rng.normal(size=(3, 2)).astype("f4")

def logits(w, z):
    return jnp.tanh(z.reshape(len(z), -1)) @ w

def score(w, z):
    return jax.nn.log_softmax(logits(w, z))[:, 0]

def everything(z):
    return (
        sensitivity.gradient_norms(score, z, operands=weights),
        sensitivity.directional_derivatives(score, z, directions, operands=weights),
        sensitivity.fisher_quadratic(logits, z, directions, operands=weights),
        sensitivity.fisher_pullback(logits, z, operands=weights).product(jnp.ones((3, 2))),
    )

mesh = jax.make_mesh((8,), ("samples",), axis_types=(AxisType.Auto,))
spread = jax.device_put(points, NamedSharding(mesh, PartitionSpec("samples")))
results = jax.jit(everything)(spread)
assert len(results[0].sharding.device_set) == 8, results[0].sharding
for one, other in zip(everything(points), results):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
print("same on", jax.device_count())
"""


@pytest.mark.slow
def test_eight_devices_give_the_same(run_program):
    assert run_program(SHARDED, devices=8) == "same on 8"


def test_gradients_of_gradients():
    """The norms can themselves be differentiated: that of |z|^2 is 2 |z|."""
    z = np.array([[3.0, 4.0]], "f4")
    slope = jax.grad(lambda z: jnp.sum(sensitivity.gradient_norms(lambda _, x: jnp.sum(x**2, axis=1), z)))(z)
    np.testing.assert_allclose(slope, [[1.2, 1.6]], rtol=1e-6)


def test_bad_input_is_named():
    points = np.ones((3, 2, 2), "f4")
    for arguments, message in (
        ({"points": points[:0]}, "points is empty"),
        ({"points": points[..., 0, 0]}, r"must be \(n, ...\)"),
        ({"points": points.astype(int)}, "floating-point numbers, got int64"),
        ({"points": np.where(np.arange(3)[:, None, None] == 1, np.nan, points)}, "first in sample 1"),
        ({"args": (np.ones(2),)}, r"args\[0\] has 2 samples and points 3"),
        ({"args": (np.float64(1),)}, r"args\[0\] has no samples"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"mask": np.ones((3, 3))}, "mask has shape"),
        ({"mask": np.array([[1, 1], [0, 0], [1, 1]])}, "mask hides every token of sample 1"),
        ({"score": lambda _, z: jnp.sum(z)}, r"score returned shape \(\) for 3 points"),
        ({"score": lambda _, z: jnp.sum(z, axis=2)}, r"score returned shape \(3, 2\)"),
    ):
        call = {"score": lambda _, z, *rest: jnp.sum(z, axis=(1, 2)), "points": points, "args": (), **arguments}
        with pytest.raises(ValueError, match=message):
            sensitivity.gradient_norms(call.pop("score"), call.pop("points"), *call.pop("args"), **call)
    for directions, message in (
        (np.ones((2, 3), "f4"), r"\(k, 2, 2\) or \(k, 2\), the same at every token"),
        (np.ones((0, 2), "f4"), "directions must have shape"),
        (np.full((1, 2), np.inf, "f4"), "directions holds NaN or infinite"),
        (np.ones((1, 2), int), "directions must hold floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            sensitivity.directional_derivatives(lambda _, z: jnp.sum(z, axis=(1, 2)), points, directions)
