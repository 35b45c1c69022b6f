"""CKA against its definitions, what it ignores, what biases it, and what it refuses."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from gmijax import distances
from gmijax.distances import _cka, _hsic, _pooled

KEY = jax.random.key(0)
cka = partial(distances.cka, permutations=0, key=KEY)
VARIANTS = list(itertools.product(("linear", "rbf"), (True, False)))
seeds = st.integers(0, 10_000)


def pairs(seed, n=14, d=3, e=4):
    """Rows of x, and of y that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, np.tanh(x @ rng.normal(size=(d, e))) + 0.5 * rng.normal(size=(n, e))


def kernel_matrix(points, kernel):
    if kernel == "linear":
        return points @ points.T
    ordered = np.sort(pdist(points))
    return np.exp(-(cdist(points, points) ** 2) / (2 * ordered[(len(ordered) - 1) // 2] ** 2))


def hsic_biased(a, b):
    """tr(A H B H) with H = I - 11' / n; the factor 1 / n^2 cancels in CKA."""
    centring = np.eye(len(a)) - 1 / len(a)
    return np.trace(a @ centring @ b @ centring)


def u_centred(a):
    """Szekely and Rizzo (2014), entry by entry."""
    n = len(a)
    a = a - np.diag(np.diag(a))
    centred = np.zeros_like(a)
    for i, j in itertools.permutations(range(n), 2):
        centred[i, j] = a[i, j] - a[i].sum() / (n - 2) - a[:, j].sum() / (n - 2) + a.sum() / ((n - 1) * (n - 2))
    return centred


def hsic_unbiased(a, b):
    return (u_centred(a) * u_centred(b)).sum()


def hsic_of_song(a, b):
    """Song et al.'s (2012) HSIC_1: the U-statistic from traces of the matrices without diagonals."""
    n = len(a)
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    total = np.trace(a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)
    return total / (n * (n - 3))


def plain(x, y, kernel, hsic):
    a, b = kernel_matrix(x, kernel), kernel_matrix(y, kernel)
    return hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))


@pytest.mark.parametrize(("n", "d"), [(14, 3), (8, 20)], ids=["more rows", "more dimensions"])
@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
@settings(max_examples=5)
@given(seeds)
def test_the_value_is_the_definition(kernel, debiased, n, d, seed):
    """Linear kernels of more rows than features go through d x d matrices; the rest through kernel matrices."""
    x, y = pairs(seed, n, d, d)
    y = x + y  # alike enough for the unbiased HSICs to be positive
    expected = plain(x, y, kernel, hsic_unbiased if debiased else hsic_biased)
    with jax.enable_x64(True):
        value = float(cka(x, y, kernel=kernel, debiased=debiased).value)
    assert value == pytest.approx(expected, abs=1e-10)
    if debiased:
        assert value == pytest.approx(plain(x, y, kernel, hsic_of_song), abs=1e-10)
    single = cka(x.astype(np.float32), y.astype(np.float32), kernel=kernel, debiased=debiased).value
    assert float(single) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
def test_tiles_agree_with_the_definition(kernel, debiased, monkeypatch, x64):
    """37 rows in tiles of 8: beyond the largest matrices held, with a cut last tile. Linear needs more dimensions."""
    monkeypatch.setattr(_cka, "DENSE", 16)
    monkeypatch.setattr(_hsic, "DENSE", 16)
    monkeypatch.setattr(_pooled, "TILE", 8)
    x, y = pairs(1, 37, 50, 50)
    y = x + y
    options = {"kernel": kernel, "debiased": debiased, "permutations": 5}
    result = cka(x, y, **options)
    expected = plain(x, y, kernel, hsic_unbiased if debiased else hsic_biased)
    assert float(result.value) == pytest.approx(expected, abs=1e-10)
    monkeypatch.undo()
    jax.clear_caches()
    dense = cka(x, y, **options)
    for field in ("standard_error", "null", "p_value"):
        assert float(getattr(result, field)) == pytest.approx(float(getattr(dense, field)), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
@settings(max_examples=5)
@given(seeds, st.floats(0.1, 10.0))
def test_rotations_shifts_and_scales_give_1(kernel, debiased, seed, scale):
    x, _ = pairs(seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    with jax.enable_x64(True):
        result = cka(x, scale * x @ rotation + rng.normal(size=3), kernel=kernel, debiased=debiased)
    assert float(result.value) == pytest.approx(1, abs=1e-9)
    assert result.converged
    assert float(result.standard_error) < 1e-7


@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
@settings(max_examples=5)
@given(seeds)
def test_order_of_the_sides_and_of_the_pairs_does_not_matter(kernel, debiased, seed):
    x, y = pairs(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    with jax.enable_x64(True):
        value, turned, moved = (
            float(cka(*sides, kernel=kernel, debiased=debiased).value)
            for sides in ((x, y), (y, x), (x[order], y[order]))
        )
    assert turned == pytest.approx(value, abs=1e-12)
    assert moved == pytest.approx(value, abs=1e-12)
    assert value <= 1 + 1e-12


def test_a_bandwidth_for_each_side(x64):
    x, y = pairs(2)
    a, b = (np.exp(-(cdist(s, s) ** 2) / (2 * width**2)) for s, width in ((x, 0.8), (y, 2.5)))
    expected = hsic_unbiased(a, b) / np.sqrt(hsic_unbiased(a, a) * hsic_unbiased(b, b))
    assert float(cka(x, y, kernel="rbf", bandwidth=np.array([0.8, 2.5])).value) == pytest.approx(expected, abs=1e-10)
    equal = cka(x, y, kernel="rbf", bandwidth=1.5).value
    assert float(equal) == pytest.approx(
        float(cka(x, y, kernel="rbf", bandwidth=np.array([1.5, 1.5])).value), abs=1e-12
    )


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_independent_data_debiased_and_not(kernel):
    """40 rows of 200 independent dimensions: plain CKA is far from 0, the debiased one within its noise of it."""
    repeats = 100
    data = jax.random.normal(jax.random.key(3), (repeats, 2, 40, 200))

    def values(debiased):
        one = jax.jit(lambda pair: cka(pair[0], pair[1], kernel=kernel, debiased=debiased).value)
        return np.array([float(one(pair)) for pair in data])

    honest, biased = values(True), values(False)
    assert biased.min() > 0.5
    # Exactly centred but for the ratio, whose own bias is far below one value's scatter.
    assert abs(honest.mean()) < 4 * honest.std(ddof=1) / np.sqrt(repeats)
    assert honest.std(ddof=1) < 0.1


def test_few_dimensions_and_many_rows_need_no_debiasing():
    x, y = pairs(4, n=2000)
    first, second = (float(cka(x, y, debiased=debiased).value) for debiased in (True, False))
    assert first == pytest.approx(second, abs=2e-3)
    assert first < second


@pytest.mark.parametrize("debiased", [True, False])
def test_the_standard_error_is_the_jackknifes_in_large_samples(debiased, x64):
    """The influence function against leaving one pair out: they agree to O(1 / n)."""
    x, y = pairs(5, n=150)
    whole = cka(x, y, debiased=debiased)
    masks = 1.0 - np.eye(150)
    left = np.asarray(jax.lax.map(lambda mask: cka(x, y, mask=mask, debiased=debiased).value, jnp.asarray(masks)))
    jackknife = np.sqrt(149 / 150 * ((left - left.mean()) ** 2).sum())
    assert float(whole.standard_error) == pytest.approx(jackknife, rel=0.06)


def test_the_permutation_null_is_that_of_the_pairing():
    x, y = pairs(6, n=60)
    related = distances.cka(x, y, key=KEY)
    assert float(related.p_value) == pytest.approx(1 / 200)
    assert abs(float(related.null)) < 0.02
    assert related.split_half is None
    biased = distances.cka(x, y, debiased=False, key=KEY)
    assert float(biased.null) > 0.02  # what no relation gives is not 0 here
    mixed = y[np.random.default_rng(0).permutation(60)]
    assert float(distances.cka(x, mixed, key=KEY).p_value) > 0.02


@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
def test_padding_never_counts(kernel, debiased):
    """A mask leaves rows out wherever they stand and whatever they hold; so do weights of 0."""
    x, y = (side.astype(np.float32) for side in pairs(7))
    mask = np.random.default_rng(1).permutation(20) < 14
    wide_x, wide_y = np.full((20, 3), np.nan, np.float32), np.full((20, 4), np.inf, np.float32)
    wide_x[mask], wide_y[mask] = x, y
    options = {"kernel": kernel, "debiased": debiased, "permutations": 19}
    padded, expected = cka(wide_x, wide_y, mask=mask, **options), cka(x, y, **options)
    for field in ("value", "standard_error"):
        assert float(getattr(padded, field)) == pytest.approx(float(getattr(expected, field)), abs=1e-5)
    assert (padded.n, padded.m) == (14, 14)
    assert np.isfinite([padded.null, padded.p_value]).all()


@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
def test_jit_and_vmap_agree_with_the_front_door(kernel, debiased):
    estimate = partial(cka, kernel=kernel, debiased=debiased, permutations=19)
    samples = [[side.astype(np.float32) for side in pairs(seed)] for seed in (8, 9)]
    direct = [estimate(x, y) for x, y in samples]
    traced = jax.jit(estimate)(*samples[0])
    batched = jax.vmap(estimate)(*(jnp.stack(side) for side in zip(*samples, strict=True)))
    for field in ("value", "standard_error", "null"):
        plain_values = [float(getattr(result, field)) for result in direct]
        assert float(getattr(traced, field)) == pytest.approx(plain_values[0], abs=1e-5)
        np.testing.assert_allclose(getattr(batched, field), plain_values, atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(40, 4), (20, 30)], ids=["features", "matrices"])
@pytest.mark.parametrize("debiased", [True, False])
def test_without_the_interval_the_value_is_the_same(n, d, debiased):
    x, y = (side.astype(np.float32) for side in pairs(14, n, d, d))
    bare = cka(x, y, debiased=debiased, interval="none")
    assert bare.interval is None
    assert bare.standard_error is None
    assert float(bare.value) == pytest.approx(float(cka(x, y, debiased=debiased).value), rel=1e-6)


def test_one_compilation_a_shape():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def one(x, y, key):
        return distances.cka(x, y, key=key).value

    for seed in range(3):
        one(*pairs(seed), jax.random.key(seed))


def test_the_gradient_is_that_of_differences(x64):
    x, y = pairs(10)
    value = jax.jit(lambda points: cka(points, y).value)
    gradient, step = np.asarray(jax.jit(jax.grad(value))(x)), 1e-6
    for row, column in ((0, 0), (5, 2)):
        change = np.zeros_like(x)
        change[row, column] = step
        expected = (float(value(x + change)) - float(value(x - change))) / (2 * step)
        assert gradient[row, column] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_constant_columns_and_duplicate_rows_have_an_answer(x64):
    x, y = pairs(11)
    expected = float(cka(x, y).value)
    widened = np.concatenate([x, np.full((14, 2), 7.0)], axis=1)
    assert float(cka(widened, y).value) == pytest.approx(expected, abs=1e-9)
    doubled = float(cka(np.tile(x, (2, 1)), np.tile(y, (2, 1)), debiased=False).value)
    assert doubled == pytest.approx(float(cka(x, y, debiased=False).value), abs=1e-9)  # a V-statistic knows no copies


@pytest.mark.parametrize(("kernel", "debiased"), VARIANTS)
def test_a_constant_side_has_no_answer_and_says_so(kernel, debiased):
    x, y = (side.astype(np.float32) for side in pairs(12))
    constant = np.broadcast_to(y[:1], y.shape)  # whose mean is not y[0] to the last digit
    for sides in ((x, constant), (constant, x), (constant, constant)):
        result = cka(*sides, kernel=kernel, debiased=debiased)
        assert np.isnan(result.value)
        assert not result.converged


BAD = [
    ({"y": np.ones((13, 4))}, "CKA compares paired rows, and x has 14 and y 13: row i of both must be one sample"),
    ({"x": np.ones((1, 3)), "y": np.ones((1, 4))}, "x has 1 row; a law needs at least 2"),
    ({"x": np.ones((3, 3)), "y": np.ones((3, 4))}, "x and y have 3 rows that count; debiased CKA needs 4"),
    ({"x": np.full((14, 3), np.nan)}, "x holds NaN or infinite values in 14 rows, the first at row 0"),
    ({"y": np.full((14, 4), -np.inf)}, "y holds NaN or infinite values in 14 rows"),
    ({"x": np.ones(14)}, "x must hold points along its first axis"),
    ({"x": np.ones((14, 3), complex)}, "x must be real"),
    ({"mask": np.ones(13)}, r"mask must have one weight a row, shape \(14,\), got \(13,\)"),
    ({"mask": np.zeros(14)}, "mask leaves 0 rows of positive weight"),
    ({"mask": np.arange(14) < 3}, "x and y have 3 rows that count; debiased CKA needs 4"),
    ({"mask": -np.ones(14)}, "mask must be finite and >= 0"),
    ({"kernel": "laplace"}, "kernel must be one of 'linear', 'rbf', got 'laplace'"),
    ({"kernel": "rbf", "bandwidth": "mean"}, "bandwidth must be one of 'median'"),
    ({"kernel": "rbf", "bandwidth": -1.0}, "bandwidth must be finite and above 0"),
    ({"interval": "bootstrap"}, "interval must be one of 'influence', 'none'"),
    ({"permutations": -1}, "permutations must be a whole number of at least 0"),
    ({"level": 0.0}, "level must lie strictly between 0 and 1"),
    ({"given": "y"}, "given must be one of"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[f"{k}: {message[:28]}" for k, (_, message) in enumerate(BAD)])
def test_bad_input_is_named(change, message):
    x, y = pairs(13)
    arguments = {"x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        distances.cka(arguments.pop("x"), arguments.pop("y"), key=KEY, **arguments)


def test_more_rows_than_an_int32_counts_pairs_of():
    x = np.random.default_rng(2).normal(size=(46_342, 3)).astype(np.float32)
    result = distances.cka(x, x + 1, permutations=0, key=KEY)
    assert float(result.value) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(result.standard_error)
