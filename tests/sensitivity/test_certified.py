"""Certified constants: closed forms, attained suprema, enclosures that hold, and certified >= searched >= sampled."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import sensitivity
from gmijax.sensitivity import _mlp, certified_linear, certified_mlp, certified_softmax

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}
WIDTHS = (4, 6, 5, 3)  # of a point, two hidden layers and the labels


def softmax_score(weights, z, y):
    matrix, bias = weights
    return jnp.take_along_axis(jax.nn.log_softmax(z.reshape(len(z), -1) @ matrix.T + bias), y[:, None], axis=1)[:, 0]


def linear_score(weights, z, y):
    matrix, bias = weights
    return jnp.take_along_axis(z.reshape(len(z), -1) @ matrix.T + bias, y[:, None], axis=1)[:, 0]


def mlp_logits(weights, z, activation):
    hidden = z
    for matrix, bias in weights[:-1]:
        hidden = ACTIVATIONS[activation](hidden @ matrix.T + bias)
    return hidden @ weights[-1][0].T + weights[-1][1]


def mlp_score(activation):
    def score(weights, z, y):
        logits = jax.nn.log_softmax(mlp_logits(weights, z, activation))
        return jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]

    return score


MLP_SCORES = {activation: mlp_score(activation) for activation in ACTIVATIONS}


def random_layers(rng, scale, widths=WIDTHS):
    return [(scale * rng.normal(size=(n, m)) / np.sqrt(m), rng.normal(size=n)) for m, n in itertools.pairwise(widths)]


def test_linear_constant_is_the_norm_of_the_weights():
    weight = np.random.default_rng(0).normal(size=(3, 2, 4))
    constant = certified_linear(weight, space="z")
    np.testing.assert_allclose(constant.by_label, np.sqrt((weight**2).sum((1, 2))), rtol=1e-14)
    np.testing.assert_allclose(constant.by_token, np.sqrt((weight**2).sum(2)), rtol=1e-14)
    assert (constant.value, constant.kind, constant.space) == (constant.by_label.max(), "certified", "z")
    assert certified_linear(weight[:, 0], space="z").by_token is None


def test_softmax_constant_is_the_largest_gap_of_rows():
    weight = np.random.default_rng(1).normal(size=(5, 2, 3))
    constant = certified_softmax(weight, space="z")
    for y in range(5):
        gaps = [weight[y] - weight[k] for k in range(5)]
        assert constant.by_label[y] == pytest.approx(max(np.linalg.norm(gap) for gap in gaps), rel=1e-14)
        for t in range(2):
            expected = max(np.linalg.norm(gap[t]) for gap in gaps)
            assert constant.by_token[y, t] == pytest.approx(expected, rel=1e-14)
    some = certified_softmax(weight, space="z", labels=[3, 1])
    np.testing.assert_array_equal(some.by_label, constant.by_label[[3, 1]])


def test_two_labels_are_a_logistic_slope():
    """log sigmoid(w z) has the slope w sigmoid(-w z): below |w| everywhere, and |w| in the limit."""
    assert certified_softmax([[1.5], [-0.5]], space="z").value == pytest.approx(2.0, rel=1e-14)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_softmax_constant_is_attained_far_out(seed, scale):
    """It is the supremum, not only a bound: far along w_k - w_y the gradient of l_y is w_y - w_k."""
    rng = np.random.default_rng(seed)
    weight, bias = scale * rng.normal(size=(5, 3)), rng.normal(size=5)
    constant = certified_softmax(weight, space="z")
    for y in range(5):
        k = np.argmax(np.linalg.norm(weight[y] - weight, axis=1))
        direction = (weight[k] - weight[y]) / np.linalg.norm(weight[k] - weight[y])
        logits = 1e4 / scale * weight @ direction + bias
        p = np.exp(logits - logits.max())
        slope = np.linalg.norm(weight[y] - p @ weight / p.sum())
        assert slope == pytest.approx(constant.by_label[y], rel=1e-2)
        assert slope <= constant.by_label[y]


@given(seed=st.integers(0, 10_000), shift=st.floats(-10, 10))
def test_softmax_constant_ignores_what_the_softmax_ignores(seed, shift):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(4, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    plain = certified_softmax(weight, space="z").by_label
    np.testing.assert_allclose(certified_softmax(weight + shift * turn[0], space="z").by_label, plain, rtol=1e-10)
    np.testing.assert_allclose(certified_softmax(weight @ turn, space="z").by_label, plain, rtol=1e-12)
    np.testing.assert_allclose(certified_softmax(3 * weight, space="z").by_label, 3 * plain, rtol=1e-14)


def test_mlp_without_hidden_layers_is_the_closed_form():
    rng = np.random.default_rng(2)
    weight, bias, box = rng.normal(size=(4, 3)), rng.normal(size=4), (np.full(3, -1.0), np.full(3, 2.0))
    for head, closed in (("softmax", certified_softmax), ("linear", certified_linear)):
        got = certified_mlp([weight], [bias], *box, activation="relu", head=head, space="z")
        np.testing.assert_allclose(got.by_label, closed(weight, space="z").by_label, rtol=1e-13)


def test_mlp_that_cannot_bend_in_the_box_is_exact():
    """ReLU units that are all on, or off, make the network linear there: the constant is the product's norm."""
    rng = np.random.default_rng(3)
    first, last = rng.normal(size=(4, 3)), rng.normal(size=(2, 4))
    on = np.array([True, True, False, True])
    box = (np.full(3, -1.0), np.full(3, 1.0))
    biases = [np.where(on, 50.0, -50.0), np.zeros(2)]
    constant = certified_mlp([first, last], biases, *box, activation="relu", head="linear", space="z")
    np.testing.assert_allclose(constant.by_label, np.linalg.norm(last[:, on] @ first[on], axis=1), rtol=1e-10)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_mlp_constant_is_at_most_the_product_of_spectral_norms(activation):
    layers = random_layers(np.random.default_rng(4), 2.0)
    box = (np.full(4, -3.0), np.full(4, 3.0))
    got = certified_mlp(*map(list, zip(*layers, strict=True)), *box, activation=activation, head="linear", space="z")
    steepest = {"gelu": 1.1289042, "sigmoid": 0.25, "silu": 1.0998394}.get(activation, 1.0)
    first, second, last = (matrix for matrix, _ in layers)
    product = np.linalg.norm(first, 2) * np.linalg.norm(second, 2) * steepest**2 * np.linalg.norm(last, axis=1)
    assert (got.by_label <= product * (1 + 1e-6)).all()


def test_a_smaller_box_has_a_smaller_constant_down_to_the_gradient_at_a_point(x64):
    layers = random_layers(np.random.default_rng(5), 2.0)
    centre = np.array([0.3, -0.2, 0.5, 0.1])
    values = [
        certified_mlp(
            *map(list, zip(*layers, strict=True)), centre - r, centre + r, activation="gelu", head="linear", space="z"
        ).by_label
        for r in (1.0, 0.1, 0.01, 1e-6)
    ]
    assert all((a >= b).all() for a, b in itertools.pairwise(values))
    gradient = jax.jacobian(lambda z: mlp_logits(layers, z[None], "gelu")[0])(centre)
    np.testing.assert_allclose(values[-1], np.linalg.norm(gradient, axis=1), rtol=1e-4)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_ranges_of_activations_hold_what_they_should_and_no_more(activation):
    """Values and slopes over random intervals, against a fine grid and JAX's own derivative."""
    rng = np.random.default_rng(6)
    ends = np.sort(np.concatenate([rng.normal(size=(200, 2)) * 3, rng.normal(size=(20, 2)) * 300]), axis=1)
    grid = ends[:, :1] + np.linspace(0, 1, 2001) * (ends[:, 1:] - ends[:, :1])
    function, box = _mlp._NONLINEARITIES[activation], _mlp._Box(*ends.T)
    with jax.enable_x64(True):
        values = np.asarray(ACTIVATIONS[activation](jnp.asarray(grid)))
        slopes = np.asarray(jax.vmap(jax.vmap(jax.grad(ACTIVATIONS[activation])))(jnp.asarray(grid)))
    for seen, bounds in (
        (values, _mlp._range(function.value, function.value_turns, box)),
        (slopes, _mlp._range(function.slope, function.slope_turns, box)),
    ):
        assert (bounds.lower[:, None] <= seen).all()
        assert (seen <= bounds.upper[:, None]).all()
        if activation != "relu" or seen is values:  # ReLU's slope jumps between two points of the grid
            step = (ends[:, 1] - ends[:, 0]) / 2000
            assert (bounds.upper - seen.max(1) <= 1.2 * step + 1e-12).all()
            assert (seen.min(1) - bounds.lower <= 1.2 * step + 1e-12).all()


def ordered(score, weights, points, y, certify, region="box"):
    """Certified >= searched >= sampled, without any tolerance."""
    searched = sensitivity.searched_slope(
        score, points, y, operands=weights, space="z", region=region, starts=4, steps=15, key=jax.random.key(0)
    )
    sampled = sensitivity.lipschitz_index(sensitivity.gradient_norms(score, points, y, operands=weights))
    certified = certify(points.min(0), points.max(0))
    assert certified.value >= searched.value >= sampled.maximum >= sampled.value
    return certified.value, searched.value, sampled.maximum


DRAWS = {"seed": st.integers(0, 10_000), "scale": st.floats(0.1, 5), "spread": st.floats(0.1, 5)}


@given(**DRAWS)
@pytest.mark.parametrize(("score", "certify"), [(linear_score, certified_linear), (softmax_score, certified_softmax)])
def test_order_of_constants_of_probes(score, certify, seed, scale, spread):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        weight, bias = scale * rng.normal(size=(3, 4)), rng.normal(size=3)
        points, y = spread * rng.normal(size=(10, 2, 2)), rng.integers(0, 3, 10)
        whole = certify(weight.reshape(3, 2, 2), space="z")
        ordered(score, (weight, bias), points, y, lambda *_: whole, "ball")


@given(**DRAWS)
@pytest.mark.parametrize(
    "activation", [a if a == "gelu" else pytest.param(a, marks=pytest.mark.slow) for a in ACTIVATIONS]
)
def test_order_of_constants_of_networks(activation, seed, scale, spread):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        layers = random_layers(rng, scale)
        points, y = spread * rng.normal(size=(10, 4)), rng.integers(0, 3, 10)

        def certify(lower, upper):
            matrices, biases = (list(part) for part in zip(*layers, strict=True))
            return certified_mlp(matrices, biases, lower, upper, activation=activation, space="z")

        ordered(MLP_SCORES[activation], layers, points, y, certify)


@given(seed=st.integers(0, 10_000))
def test_label_constants_bound_each_label(seed):
    rng = np.random.default_rng(seed)
    layers = random_layers(rng, 2.0)
    matrices, biases = (list(part) for part in zip(*layers, strict=True))
    points = rng.uniform(-1, 1, size=(50, 4))
    box = (np.full(4, -1.0), np.full(4, 1.0))
    constant = certified_mlp(matrices, biases, *box, activation="tanh", space="z")
    with jax.enable_x64(True):
        for y in range(3):
            labels = np.full(50, y)
            norms = sensitivity.gradient_norms(MLP_SCORES["tanh"], points, labels, operands=layers, batch_size=50)
            assert norms.max() <= constant.by_label[y]


def test_bad_input_is_named():
    square = np.ones((2, 2))
    for weight, message in (
        (np.ones(3), r"weight must have shape \(labels, ...\)"),
        (np.ones((0, 3)), "weight must have shape"),
        (np.full((2, 2), np.nan), "weight holds NaN"),
    ):
        for certify in (certified_linear, certified_softmax):
            with pytest.raises(ValueError, match=message):
                certify(weight, space="z")
    with pytest.raises(ValueError, match="softmax over one label is constant"):
        certified_softmax(np.ones((1, 3)), space="z")
    for labels, message in (([2], "labels must lie in 0 to 1"), ([0.5], "row numbers"), ([], "row numbers")):
        with pytest.raises(ValueError, match=message):
            certified_softmax(square, space="z", labels=labels)
    for arguments, message in (
        ({"weights": []}, "one array a layer, got 0 and 2"),
        ({"weights": [square, np.ones((2, 3))]}, r"weights\[1\] must have shape \(out, 2\)"),
        ({"weights": [square, np.full((2, 2), np.inf)]}, r"weights\[1\] holds NaN"),
        ({"weights": [square, np.ones((1, 2))], "biases": [np.ones(2), np.ones(1)]}, r"use head='linear'"),
        ({"biases": [np.ones(2), np.ones(3)]}, r"biases\[1\] must be finite, of shape \(2,\)"),
        ({"biases": [np.ones(2), np.full(2, np.nan)]}, r"biases\[1\] must be finite"),
        ({"lower": np.ones(3)}, "lower and upper must have the shape of one point"),
        ({"lower": np.full(2, 5.0)}, "nowhere above upper"),
        ({"upper": np.full(2, np.inf)}, "nowhere above upper"),
        ({"activation": "swish"}, "activation must be one of 'gelu', 'relu', .* got 'swish'"),
        ({"head": "sigmoid"}, "head must be 'linear' or 'softmax'"),
    ):
        call = {
            "weights": [square, square],
            "biases": [np.ones(2), np.ones(2)],
            "lower": np.zeros(2),
            "upper": np.ones(2),
            "activation": "relu",
            "space": "z",
            **arguments,
        }
        with pytest.raises(ValueError, match=message):
            certified_mlp(**call)
