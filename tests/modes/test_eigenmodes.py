"""Eigenmodes against LAPACK on the plain covariance, by every path; ranks, contexts, and what must not matter."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import modes
from gmijax.modes import _krylov, _solvers

PATHS = ("host", "device")
TOP = 6
assert _krylov.basis_size(TOP) == 132  # rows and columns of `wide` are more, so that block Lanczos is what is tested


def wide(n=200, d=320, decay=-0.55, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * np.arange(1, d + 1) ** decay @ rotation + rng.normal(size=d)).astype(dtype)


def plain(x, top=None):
    """Eigenvalues, directions and total variance of the covariance, float64."""
    covariance = np.cov(np.asarray(x, np.float64), rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    return values[::-1][:top], vectors[:, ::-1].T[:top], np.trace(covariance)


def same_lines(first, second, tolerance):
    np.testing.assert_allclose(np.abs(np.sum(np.asarray(first) * np.asarray(second), axis=1)), 1, atol=tolerance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (12, 12)])
def test_all_modes_are_lapacks(x64, path, shape):
    x = np.random.default_rng(0).normal(size=shape) * 0.8 ** np.arange(shape[1]) + 1
    found = modes.eigenmodes(x, path=path)
    k = min(shape[0] - 1, shape[1])
    values, vectors, total = plain(x, k)
    assert found.eigenvalues.shape == (k,)
    assert found.directions.dtype == jnp.float64
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-10)
    same_lines(found.directions, vectors, 1e-9)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(found.total_variance, total, rtol=1e-12)
    np.testing.assert_allclose(np.sum(found.share), 1, rtol=1e-10)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    assert bool(found.converged)
    assert (found.n, found.degrees, found.asked) == (shape[0], shape[0] - 1, None)


def test_the_host_takes_float64_for_all_modes_of_float32_rows():
    x = wide()
    values, vectors, _ = plain(x, 199)
    found = modes.eigenmodes(x)
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.eigenvalues, values, rtol=3e-7)
    same_lines(found.directions, vectors, 1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("transposed", [False, True])
def test_leading_modes_are_lapacks(path, transposed):
    x = wide(320, 200) if transposed else wide()
    found = modes.eigenmodes(x, top=TOP, path=path)
    values, vectors, total = plain(x, TOP)
    np.testing.assert_allclose(found.eigenvalues, values, rtol=2e-5)
    same_lines(found.directions, vectors, 1e-4)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(TOP), atol=2e-6)
    np.testing.assert_allclose(found.total_variance, total, rtol=1e-5)
    assert bool(found.converged)


@pytest.mark.parametrize("size", [40, 77])
def test_chunks_give_the_modes_of_the_whole(pieces, size):
    x = wide()
    whole, streamed = modes.eigenmodes(x, top=TOP), modes.eigenmodes(pieces(x, size), top=TOP)
    np.testing.assert_allclose(streamed.eigenvalues, whole.eigenvalues, rtol=1e-5)
    np.testing.assert_allclose(streamed.directions, whole.directions, atol=2e-3)
    np.testing.assert_allclose(streamed.standard_error, whole.standard_error, rtol=1e-3)
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(streamed.total_variance, whole.total_variance, rtol=1e-6)
    assert (streamed.n, streamed.degrees) == (200, 199)


@pytest.mark.parametrize("top", [None, 3])
def test_small_chunks_are_solved_whole(pieces, top):
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32) * 0.7 ** np.arange(8, dtype=np.float32)
    whole, streamed = modes.eigenmodes(x, top=top), modes.eigenmodes(pieces(x, 13), top=top)
    np.testing.assert_allclose(streamed.eigenvalues, whole.eigenvalues, rtol=1e-5)
    same_lines(streamed.directions, whole.directions, 1e-6)


def test_a_product_with_chunks_holds_nothing_larger_than_chunk_and_block():
    rows, mean, block = jnp.ones((64, 3000)), jnp.ones(3000), jnp.ones((22, 3000))
    program = jax.make_jaxpr(_solvers._product.__wrapped__)(rows, mean, block)
    sizes = [variable.aval.size for equation in program.eqns for variable in equation.outvars]
    assert max(sizes) == 64 * 3000


@pytest.mark.parametrize("decay", [-0.55, 0.0])
@pytest.mark.parametrize("path", PATHS)
def test_reported_residuals_are_the_true_ones(path, decay):
    x = wide(decay=decay)
    found = modes.eigenmodes(x, top=TOP, path=path, tolerance=1e-3)
    covariance = np.cov(x.astype(np.float64), rowvar=False)
    values, directions = np.asarray(found.eigenvalues, np.float64), np.asarray(found.directions, np.float64)
    # The Gram matrix's residual, carried to d dimensions, is multiplied by at most sqrt(largest / own eigenvalue).
    residuals = np.linalg.norm(directions @ covariance - values[:, None] * directions, axis=1) / values
    growth = np.sqrt(values[0] / values)
    assert np.all(residuals <= 1.05 * growth * np.asarray(found.residuals) + 2e-5)
    assert bool(found.converged) == bool(np.max(found.residuals) <= 1e-3)


@pytest.mark.slow
def test_a_loose_cycle_is_restarted_until_it_meets_the_tolerance():
    x = wide(decay=0.0)  # no gap at all: one cycle does not do
    loose, tight = (modes.eigenmodes(x, top=TOP, path="device", tolerance=t) for t in (0.5, 1e-4))
    assert np.max(loose.residuals) > 1e-3
    assert np.max(tight.residuals) <= 1e-4
    assert bool(tight.converged)
    np.testing.assert_allclose(tight.eigenvalues, plain(x, TOP)[0], rtol=1e-5)


def test_what_float32_cannot_resolve_is_told_or_done_in_float64():
    x = wide(decay=-4.0)
    exact = plain(x, TOP)[0]
    assert exact[-1] / exact[0] < 1e-5
    assert not bool(modes.eigenmodes(x, top=TOP, path="device", tolerance=1e-5).converged)
    found = modes.eigenmodes(x, top=TOP, path="host", tolerance=1e-5)
    assert bool(found.converged)
    np.testing.assert_allclose(found.eigenvalues, exact, rtol=1e-6)


def test_standard_errors_of_normal_rows():
    x = np.random.default_rng(0).normal(size=(20_000, 3)) * [3.0, 2.0, 1.0]
    found = modes.eigenmodes(x)
    np.testing.assert_allclose(found.standard_error / found.eigenvalues, np.sqrt(2 / 20_000), rtol=0.05)


@pytest.mark.parametrize("source", ["array", "chunks", "device"])
def test_contexts_are_pooled_within(x64, pieces, source):
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 5, 80)
    x = rng.normal(size=(80, 4)) * [2.0, 1.0, 0.5, 0.3] + 100 * rng.normal(size=(5, 4))[groups]
    centred = np.empty_like(x)
    for group in range(5):
        centred[groups == group] = x[groups == group] - x[groups == group].mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (80 - 5))
    given_rows = pieces(x, 30) if source == "chunks" else x
    path = "device" if source == "device" else "auto"
    found = modes.eigenmodes(given_rows, within=np.array(list("abcde"))[groups], path=path)
    np.testing.assert_allclose(found.eigenvalues, values[::-1], rtol=1e-9)
    same_lines(found.directions, vectors[:, ::-1].T, 1e-9)
    np.testing.assert_allclose(found.total_variance, np.sum(values), rtol=1e-9)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-9)
    assert found.degrees == 75


@given(st.integers(0, 1000), st.floats(-50, 50), st.floats(0.1, 10))
def test_shift_scale_rotation_and_order_of_rows(seed, shift, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5)) * 0.6 ** np.arange(5)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    with jax.enable_x64(True):
        base = modes.eigenmodes(x)
        moved = modes.eigenmodes(scale * rng.permutation(x) @ rotation + shift)
        np.testing.assert_allclose(moved.eigenvalues, scale**2 * base.eigenvalues, rtol=1e-8)
        same_lines(moved.directions, np.asarray(base.directions) @ rotation, 1e-8)
        np.testing.assert_allclose(moved.share, base.share, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_signs_are_fixed(path):
    directions = np.asarray(modes.eigenmodes(wide(), top=TOP, path=path).directions)
    assert (directions[np.arange(TOP), np.abs(directions).argmax(1)] > 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_null_modes_are_never_returned(path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 10)).astype(np.float32)
    x[:, 6:] = 3.0  # constant columns
    found = modes.eigenmodes(x, path=path)
    assert found.eigenvalues.shape == (6,)
    np.testing.assert_allclose(found.directions[:, 6:], 0, atol=1e-6)
    duplicated = modes.eigenmodes(np.repeat(wide(), 2, axis=0)[:300], top=160, path=path)
    assert duplicated.eigenvalues.shape == (149,)
    assert duplicated.asked == 160
    assert np.isfinite(duplicated.directions).all()


def test_jit_and_vmap_agree_and_compile_once():
    x = np.stack([wide(60, 40, seed=seed) for seed in range(3)])
    traced = chex.assert_max_traces(lambda rows: modes.eigenmodes(rows, top=4), n=1)
    chex.clear_trace_counter()
    compiled = jax.jit(traced)
    for rows in x:
        alone, inside = modes.eigenmodes(rows, top=4, path="device"), compiled(rows)
        np.testing.assert_allclose(inside.eigenvalues, alone.eigenvalues, rtol=1e-5)
    batched = jax.vmap(lambda rows: modes.eigenmodes(rows, top=4))(x)
    np.testing.assert_allclose(batched.eigenvalues[1], modes.eigenmodes(x[1], top=4).eigenvalues, rtol=1e-5)
    assert batched.converged.shape == (3,)


@pytest.mark.slow
def test_lanczos_jits():
    x = jnp.asarray(wide())
    inside = jax.jit(lambda rows: modes.eigenmodes(rows, top=TOP))(x)
    np.testing.assert_allclose(inside.eigenvalues, plain(x, TOP)[0], rtol=2e-5)
    assert bool(inside.converged)


class Stored:
    """Rows that know their space."""

    space = "layer 3"

    def __array__(self, dtype=None, copy=None):
        return np.eye(4)


def test_spaces_are_carried():
    assert modes.eigenmodes(Stored()).space == "layer 3"
    assert modes.eigenmodes(np.eye(4), space="layer 4").space == "layer 4"
    with pytest.raises(ValueError, match="carries the space 'layer 3' and was said to be of 'layer 4'"):
        modes.eigenmodes(Stored(), space="layer 4")


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((1, 4)), {}, "at least two rows"),
        (np.ones((5, 4)), {}, "x does not vary: all 5 rows are the same"),
        (np.eye(5), {"top": 5}, r"top must lie in 1..4, got 5: 4 degrees of freedom in 5 columns carry at most 4"),
        (np.eye(5), {"top": 0}, "top must lie in 1..4, got 0"),
        (np.full((3, 3), np.nan), {}, "x holds 9 NaN"),
        (np.ones(3), {}, "matrix of rows"),
        (np.eye(3), {"tolerance": 0.0}, "tolerance must be positive"),
        (np.eye(3), {"path": "gpu"}, "path must be one of 'auto', 'host', 'device', got 'gpu'"),
        (np.eye(3), {"within": [0, 1]}, r"within must have one entry a row, shape \(3,\), got \(2,\)"),
        (np.eye(3), {"within": [0, 1, 2]}, "a context that holds two of them"),
        (np.eye(3), {"within": [0, np.nan, 2]}, "within holds NaN"),
        (np.repeat(np.eye(3), 2, axis=0), {"within": [0, 0, 1, 1, 2, 2]}, "the same in each context"),
    ],
)
def test_bad_input_is_named(x, options, message):
    with pytest.raises(ValueError, match=message):
        modes.eigenmodes(x, **options)


def test_bad_sources_and_traces_are_named():
    sizes = iter([3, 3, 4, 4, 4])
    with pytest.raises(ValueError, match="gave 3 rows in one pass and 4 in another"):
        modes.eigenmodes(lambda: [np.random.default_rng(0).normal(size=(next(sizes), 200))], top=1)
    with pytest.raises(ValueError, match="path='host' needs values"):
        jax.jit(lambda x: modes.eigenmodes(x, path="host").eigenvalues)(np.eye(3))
    with pytest.raises(ValueError, match="within must be values, not traced"):
        jax.jit(lambda x, g: modes.eigenmodes(x, within=g).eigenvalues)(np.eye(4), np.array([0, 0, 1, 1]))
