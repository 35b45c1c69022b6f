"""kappa: a decoder whose Fisher pullback is known, one that reads a subspace only, and the cost it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from gmijax import modes


def softmax_fisher(weights, z, directions):
    """u' W' (diag p - p p') W u of p = softmax(W z), row by row: (n, k)."""
    logits = z @ weights.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slopes = weights @ directions.T
    return p @ slopes**2 - (p @ slopes) ** 2


def test_kappa_is_its_definition(x64):
    rng = np.random.default_rng(0)
    fisher, squares = rng.exponential(size=(50, 3)), rng.exponential(size=(50, 3))
    known = modes.kappa(np.array([3.0, 2.0, 1.0]), fisher)
    value = np.array([3.0, 2.0, 1.0]) * fisher.mean(0) / 2
    np.testing.assert_allclose(known.value, value, rtol=1e-12)
    relative = fisher.std(0, ddof=1) / fisher.mean(0) / np.sqrt(50)
    np.testing.assert_allclose(known.standard_error, value * relative, rtol=1e-12)
    np.testing.assert_allclose(known.interval.upper, value * np.exp(1.959964 * relative), rtol=1e-6)
    assert known.together is None
    assert "eigenvalues known" in known.assumed

    paired = modes.kappa(None, fisher, squares=squares)
    np.testing.assert_allclose(paired.value, squares.mean(0) * fisher.mean(0) / 2, rtol=1e-12)
    influence = fisher / fisher.mean(0) + squares / squares.mean(0)
    np.testing.assert_allclose(paired.standard_error / paired.value, influence.std(0, ddof=1) / np.sqrt(50), rtol=1e-12)
    np.testing.assert_allclose(paired.together, (fisher * squares).mean(0) / 2, rtol=1e-12)

    apart = modes.kappa(None, fisher, squares=squares[:40], paired=False)
    other = squares[:40].std(0, ddof=1) / squares[:40].mean(0) / np.sqrt(40)
    np.testing.assert_allclose(apart.standard_error / apart.value, np.hypot(relative, other), rtol=1e-12)
    assert apart.together is None


def test_eigenmodes_bring_their_standard_errors(x64):
    rng = np.random.default_rng(1)
    x, fisher = rng.normal(size=(60, 3)), rng.exponential(size=(40, 3))
    found = modes.eigenmodes(x)
    with_errors, known = modes.kappa(found, fisher), modes.kappa(found.eigenvalues, fisher)
    np.testing.assert_allclose(with_errors.value, known.value)
    np.testing.assert_allclose(
        (with_errors.standard_error / known.value) ** 2,
        (known.standard_error / known.value) ** 2 + (found.standard_error / found.eigenvalues) ** 2,
        rtol=1e-10,
    )


def test_a_decoder_that_reads_a_subspace_is_blind_elsewhere(law):
    """Softmax of W z with W in the span of modes 1 and 3: kappa is 0 in the other modes, and known in these."""
    rng = np.random.default_rng(2)
    chosen = law(6, ratio=0.5)
    weights = rng.normal(size=(5, 2)) @ chosen.directions[[1, 3]]
    z = chosen.modal(4000, rng)
    fisher = softmax_fisher(weights, z, chosen.directions)
    squares = modes.squared_coordinates(z, chosen.directions)
    found = modes.kappa(None, fisher.astype(np.float32), squares=squares, level=0.999)
    blind = np.array([0, 2, 4, 5])
    np.testing.assert_allclose(found.value[blind], 0, atol=1e-6)
    np.testing.assert_allclose(found.interval.upper[blind], 0, atol=1e-6)
    many = chosen.modal(400_000, rng)
    truth = chosen.variances * softmax_fisher(weights, many, chosen.directions).mean(0) / 2
    read = np.array([1, 3])
    assert np.all(found.interval.lower[read] <= truth[read])
    assert np.all(truth[read] <= found.interval.upper[read])
    assert np.all(found.standard_error[read] < 0.05 * truth[read])


def test_kappa_is_what_a_small_removal_costs():
    """A matched logistic decoder of two coordinates: E KL(p(y|z) || p(y|z without the mode)), by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    slopes, deviations = np.array([1.5, 0.8]), np.array([0.05, 0.03])
    first, second = np.meshgrid(nodes * deviations[0], nodes * deviations[1], indexing="ij")
    mass = np.outer(weights, weights)
    whole, without = expit(slopes[0] * first + slopes[1] * second), expit(slopes[1] * second)
    cost = np.sum(mass * (whole * np.log(whole / without) + (1 - whole) * np.log((1 - whole) / (1 - without))))
    rows, copies = np.full((2, 1), slopes[0] ** 2 * np.sum(mass * whole * (1 - whole))), deviations[:1] ** 2
    np.testing.assert_allclose(modes.kappa(copies, rows).value, cost, rtol=2e-3)


def test_contexts_that_shift_the_rows_do_not_count():
    """THEORY.md, B7: pooled over contexts the variance would be wrong by orders of magnitude."""
    rng = np.random.default_rng(3)
    contexts = rng.integers(0, 20, 2000)
    z = rng.normal(size=(2000, 3)) + 100 * rng.normal(size=(20, 3))[contexts]
    within = modes.squared_coordinates(z, np.eye(3), within=contexts)
    np.testing.assert_allclose(np.mean(within, axis=0), 1, rtol=0.15)
    assert np.mean(modes.squared_coordinates(z, np.eye(3))) > 1000


def test_squared_coordinates_have_the_unbiased_variance_as_mean(x64):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 4)) + 5
    found = modes.eigenmodes(x)
    squares = modes.squared_coordinates(x, found)
    np.testing.assert_allclose(np.mean(squares, axis=0), found.eigenvalues, rtol=1e-10)
    groups = np.repeat([0, 1, 2], 10)
    pooled = modes.eigenmodes(x, within=groups)
    squares = modes.squared_coordinates(x, pooled, within=groups)
    np.testing.assert_allclose(np.mean(squares, axis=0), pooled.eigenvalues, rtol=1e-10)


def test_jit_vmap_and_gradient(x64):
    rng = np.random.default_rng(5)
    x, fisher = jnp.asarray(rng.normal(size=(2, 20, 3))), jnp.asarray(rng.exponential(size=(2, 20, 3)))

    def value(x, fisher):
        return modes.kappa(None, fisher, squares=modes.squared_coordinates(x, np.eye(3))).value

    batched = jax.jit(jax.vmap(value))(x, fisher)
    np.testing.assert_allclose(batched[1], value(x[1], fisher[1]), rtol=1e-12)
    slope = jax.grad(lambda x: jnp.sum(value(x, fisher[0])))(x[0])
    step = np.zeros((20, 3))
    step[4, 1] = 1e-6
    numeric = (np.sum(value(x[0] + step, fisher[0])) - np.sum(value(x[0] - step, fisher[0]))) / 2e-6
    np.testing.assert_allclose(slope[4, 1], numeric, rtol=1e-7)


@pytest.mark.parametrize(
    ("eigenvalues", "fisher", "options", "message"),
    [
        (np.ones(2), np.ones((1, 2)), {}, r"fisher_quadratic must have shape \(n, k\) with n >= 2, got \(1, 2\)"),
        (np.ones(2), np.ones(4), {}, r"got \(4,\)"),
        (np.ones(3), np.ones((4, 2)), {}, r"eigenvalues must have one value a mode, shape \(2,\), got \(3,\)"),
        (-np.ones(2), np.ones((4, 2)), {}, "eigenvalues must be finite and >= 0"),
        (np.ones(2), -np.ones((4, 2)), {}, "fisher_quadratic must be >= 0, got -1"),
        (np.ones(2), np.full((4, 2), np.nan), {}, "fisher_quadratic holds NaN"),
        (np.ones(2), np.ones((4, 2)), {"squares": np.ones((4, 2))}, "either eigenvalues or squares"),
        (None, np.ones((4, 2)), {}, "either eigenvalues or squares"),
        (None, np.ones((4, 2)), {"squares": np.ones((5, 2))}, "squares have 5 rows and fisher_quadratic 4"),
        (None, np.ones((4, 2)), {"squares": np.ones((4, 3))}, "squares have 3 modes and fisher_quadratic 2"),
        (np.ones(2), np.ones((4, 2)), {"level": 0.0}, "level must lie strictly between"),
    ],
)
def test_bad_input_is_named(eigenvalues, fisher, options, message):
    with pytest.raises(ValueError, match=message):
        modes.kappa(eigenvalues, fisher, **options)


@pytest.mark.parametrize(
    ("x", "directions", "options", "message"),
    [
        (np.eye(3), 2 * np.eye(3), {}, r"orthonormal rows: their inner products are off by up to 3"),
        (np.eye(3), np.ones((2, 3)) / np.sqrt(3), {}, "off by up to 1"),
        (np.eye(3), np.full((1, 3), np.nan), {}, "must be orthonormal rows"),
        (np.eye(3), np.eye(4), {}, "directions have 4 columns and the rows 3: not one space"),
        (np.eye(3), np.ones(3), {}, r"must be orthonormal rows \(k, d\), got shape \(3,\)"),
        (np.eye(3), np.eye(3), {"within": [0, 1, 2]}, "3 rows about 3 means"),
    ],
)
def test_bad_directions_are_named(x, directions, options, message):
    with pytest.raises(ValueError, match=message):
        modes.squared_coordinates(x, directions, **options)


@pytest.mark.slow
def test_intervals_cover(law):
    rng, chosen = np.random.default_rng(6), law(3, ratio=0.5)
    weights = np.array([[1.0, 0.5, 0.0], [-0.5, 0.3, 1.0]]) @ chosen.directions
    truth = chosen.variances * softmax_fisher(weights, chosen.modal(400_000, rng), chosen.directions).mean(0) / 2
    hits = np.zeros(3)
    for _ in range(500):
        z = chosen.modal(200, rng)
        squares = modes.squared_coordinates(z, chosen.directions)
        interval = modes.kappa(None, softmax_fisher(weights, z, chosen.directions), squares=squares).interval
        hits += (interval.lower <= truth) & (truth <= interval.upper)
    assert np.all(np.abs(hits / 500 - 0.95) < 0.03)
