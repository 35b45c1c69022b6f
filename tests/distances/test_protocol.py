"""What every two-sample distance owes: frame, order, padding, keys, jit and vmap, clear refusals."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from gmijax import distances
from gmijax.distances import _projection, _w1

KEY = jax.random.key(0)
ESTIMATORS = {
    "w1": partial(distances.w1, interval="dual"),
    "w1, subsample": partial(distances.w1, draws=5),
    "sliced_w1": partial(distances.sliced_w1, directions=8),
    "max_sliced_w1": partial(distances.max_sliced_w1, starts=2, iterations=5),
    "sinkhorn": partial(distances.sinkhorn, epsilon=1.0),
    "sinkhorn_divergence": partial(distances.sinkhorn_divergence, epsilon=1.0),
    "gaussian_w2": distances.gaussian_w2,
    "mmd2": distances.mmd2,
    "mmd2, bandwidths": partial(distances.mmd2, bandwidth=np.array([0.5, 1.0, 2.0])),
    "mmd2, block": partial(distances.mmd2, estimator="block", block_size=4),
    "energy": distances.energy,
}
SYMMETRIC = [name for name in ESTIMATORS if name not in ("mmd2, block",)]
TRACEABLE = [name for name in ESTIMATORS if not name.startswith("w1")]
ROTATABLE = [name for name in ESTIMATORS if "sliced" not in name]  # sliced W1 only for the directions' whole law
# Random blocks depend on the rows' order; everything else is a function of two sets.
SETS = SYMMETRIC
N, M, D = 12, 16, 3


def laws(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(N, D)), rng.normal(size=(M, D)) * 1.3 + 0.5
    return x.astype(np.float32), y.astype(np.float32)


def value(name, x, y, **options):
    return float(ESTIMATORS[name](x, y, permutations=0, key=KEY, **options).value)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_results_say_what_they_are(name):
    result = ESTIMATORS[name](*laws(0), permutations=19, given="c", space="z", key=KEY)
    assert (result.n, result.m, result.given, result.space, result.level) == (N, M, "c", "z", 0.95)
    assert 1 / 20 <= float(result.p_value) <= 1
    assert result.interval.lower < result.value < result.interval.upper
    assert np.isfinite([result.value, result.standard_error, result.null, result.split_half]).all()
    leaves, structure = jax.tree.flatten(result)
    assert jax.tree.unflatten(structure, leaves).name == result.name
    again = ESTIMATORS[name](*laws(0), permutations=19, given="c", space="z", key=KEY)
    for leaf, other in zip(leaves, jax.tree.leaves(again), strict=True):
        assert leaf == other  # the key alone decides
    bare = ESTIMATORS[name](*laws(0), permutations=0, key=KEY)
    assert bare.null is None
    assert bare.p_value is None
    assert bare.split_half is None


@pytest.mark.parametrize("name", ROTATABLE)
@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_moving_and_turning_both_laws_changes_nothing(name, seed):
    x, y = laws(seed)
    rng = np.random.default_rng(seed)
    rotation, shift = np.linalg.qr(rng.normal(size=(D, D)))[0].astype(np.float32), rng.normal(size=D).astype(np.float32)
    assert value(name, x @ rotation + shift, y @ rotation + shift) == pytest.approx(
        value(name, x, y), abs=1e-4, rel=1e-4
    )


@pytest.mark.parametrize("name", ["sliced_w1", "max_sliced_w1"])
@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_moving_both_laws_changes_no_slice(name, seed):
    x, y = laws(seed)
    shift = np.random.default_rng(seed).normal(size=D).astype(np.float32)
    assert value(name, x + shift, y + shift) == pytest.approx(value(name, x, y), rel=1e-5)


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_order_and_names_of_the_laws_do_not_matter(name, seed):
    x, y = laws(seed)
    rng = np.random.default_rng(seed)
    expected = pytest.approx(value(name, x, y), abs=2e-6, rel=2e-5)
    assert value(name, x[rng.permutation(N)], y[rng.permutation(M)]) == expected
    assert value(name, y, x) == expected


@pytest.mark.parametrize("name", list(ESTIMATORS))
@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_scaling_both_laws_scales_the_distance(name, seed):
    x, y = laws(seed)
    if name.startswith("mmd2"):
        assert value(name, 2 * x, 2 * y, bandwidth=4.0) == pytest.approx(value(name, x, y, bandwidth=2.0), abs=1e-6)
        return
    options = {"epsilon": 2.0} if name.startswith("sinkhorn") else {}
    assert value(name, 2 * x, 2 * y, **options) == pytest.approx(2 * value(name, x, y), abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_padding_never_counts(name):
    """Rows of weight 0 may hold anything, NaN too, wherever they stand."""
    x, y = laws(1)
    rng = np.random.default_rng(0)

    def padded(points):
        rows = rng.permutation(len(points) + 5) < len(points)
        full = np.full((len(rows), D), np.nan, np.float32)
        full[rows] = points
        return full, rows.astype(np.float32)

    (wide_x, weights_x), (wide_y, weights_y) = padded(x), padded(y)
    if name == "mmd2, block":  # random blocks: of all rows, so that the blocks are the same
        result = ESTIMATORS[name](wide_x, wide_y, weights_x=weights_x, weights_y=weights_y, permutations=3, key=KEY)
        assert np.isfinite(result.value)
        assert (result.n, result.m) == (N, M)
        return
    result = ESTIMATORS[name](wide_x, wide_y, weights_x=weights_x, weights_y=weights_y, permutations=3, key=KEY)
    plain = ESTIMATORS[name](x, y, permutations=0, key=KEY)
    assert float(result.value) == pytest.approx(float(plain.value), abs=1e-6, rel=2e-5)
    if name != "w1, subsample":
        assert float(result.standard_error) == pytest.approx(float(plain.standard_error), abs=1e-6, rel=1e-3)
    assert (result.n, result.m) == (N, M)
    assert np.isfinite([result.null, result.split_half]).all()


@pytest.mark.parametrize("name", ["w1", "sliced_w1", "max_sliced_w1", "sinkhorn"])
def test_whole_weights_are_copies(name):
    """Of V-statistics a weight of 2 is a row twice; U-statistics know that two copies are not two draws."""
    x, y = laws(2)
    counts = np.array([1, 2, 0, 3, 1, 1, 1, 2, 1, 1, 2, 1])
    repeated = value(name, np.repeat(x, counts, axis=0), y)
    assert value(name, x, y, weights_x=counts) == pytest.approx(repeated, rel=1e-4)


@pytest.mark.parametrize("name", TRACEABLE)
def test_jit_and_vmap_agree_with_the_front_door(name):
    """Sliced distances leave the host's path under a trace; the answer stays."""
    pairs = [laws(seed) for seed in (3, 4)]
    estimate = partial(ESTIMATORS[name], permutations=19, key=KEY)
    direct = [estimate(x, y) for x, y in pairs]
    traced = jax.jit(estimate)(*pairs[0])
    batched = jax.vmap(estimate)(*(jnp.stack(law) for law in zip(*pairs, strict=True)))
    for k, plain in enumerate(direct):
        for field in ("value", "standard_error", "null", "split_half"):
            expected = pytest.approx(float(getattr(plain, field)), abs=2e-6, rel=2e-4)
            assert float(getattr(batched, field)[k]) == expected
            if k == 0:
                assert float(getattr(traced, field)) == expected
        assert abs(float(batched.p_value[k]) - float(plain.p_value)) <= 0.051  # a tie may turn


def test_one_compilation_a_shape():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def both(x, y, key):
        return distances.mmd2(x, y, key=key).value + distances.energy(x, y, key=key).value

    for seed in range(3):
        both(*laws(seed), jax.random.key(seed))


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_double_input_gives_double_precision(name, x64):
    x, y = (law.astype(np.float64) for law in laws(5))
    result = ESTIMATORS[name](x, y, permutations=3, key=KEY)
    assert result.value.dtype == np.float64
    single = ESTIMATORS[name](*laws(5), permutations=3, key=KEY)
    assert single.value.dtype == np.float32
    if name not in ("mmd2, block", "sliced_w1"):  # a key draws other blocks and directions in float64
        assert float(single.value) == pytest.approx(float(result.value), abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_projection_on_all_axes_is_none(name):
    x, y = laws(6)
    full = ESTIMATORS[name](x, y, projection=D, permutations=0, key=KEY)
    assert float(full.discarded) == pytest.approx(0, abs=1e-6)
    if name in ROTATABLE:
        assert float(full.value) == pytest.approx(value(name, x, y), abs=1e-5, rel=1e-4)
    part = ESTIMATORS[name](x, y, projection=1, permutations=0, key=KEY)
    pooled = np.concatenate([x, y]).astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(pooled.T))
    assert float(part.discarded) == pytest.approx(1 - eigenvalues[-1] / eigenvalues.sum(), rel=1e-4)
    with pytest.raises(ValueError, match="projection is 4, but 12 \\+ 16 rows of 3 dimensions have at most 3"):
        ESTIMATORS[name](x, y, projection=4, key=KEY)


def test_projection_with_fewer_rows_than_dimensions():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 6, 40)).astype(np.float32)
    full = distances.w1(x, y, projection=11, interval="dual", permutations=0, key=KEY)
    assert float(full.value) == pytest.approx(distances.w1_exact(x, y).value, rel=1e-5)
    assert float(full.discarded) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_constant_columns_and_duplicate_rows_have_an_answer(name):
    x, y = laws(8)
    expected = value(name, x, y)
    if name in ROTATABLE:
        widened = (np.concatenate([law, np.full((len(law), 2), 7.0, np.float32)], axis=1) for law in (x, y))
        assert value(name, *widened) == pytest.approx(expected, abs=1e-5, rel=1e-4)
    same = np.tile(x[:1], (8, 1))
    result = ESTIMATORS[name](same, same, permutations=19, key=KEY)
    scale = 1.0 if name in ("sinkhorn", "mmd2", "mmd2, bandwidths", "mmd2, block") else float(np.abs(x[0]).max())
    assert float(result.value) == pytest.approx(0, abs=2e-6 * scale + 1e-6)
    assert float(result.p_value) > 0.05
    doubled = ESTIMATORS[name](np.tile(x, (2, 1)), np.tile(y, (2, 1)), permutations=19, key=KEY)
    assert np.isfinite([doubled.value, doubled.standard_error, doubled.p_value]).all()


BAD = [
    ({"y": np.ones((4, 5))}, "x and y have 3 and 5 dimensions: not one space"),
    ({"x": np.ones((1, 3))}, "x has 1 row; a law needs at least 2"),
    ({"y": np.full((4, 3), np.inf)}, "y holds NaN or infinite values in 4 rows, the first at row 0"),
    ({"x": np.ones(3)}, "x must hold points along its first axis"),
    ({"x": np.ones((4, 3), complex)}, "x must be real"),
    ({"weights_x": np.ones(5)}, r"weights_x must have one weight a row, shape \(12,\), got \(5,\)"),
    ({"weights_y": -np.ones(16)}, "weights_y must be finite and >= 0"),
    ({"weights_y": np.zeros(16)}, "weights_y leaves 0 rows of positive weight"),
    ({"permutations": -1}, "permutations must be a whole number of at least 0"),
    ({"level": 1.0}, "level must lie strictly between 0 and 1"),
    ({"given": "y"}, "given must be one of"),
    ({"projection": 0}, "projection must be a whole number of at least 1"),
]


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:24] for _, message in BAD])
def test_bad_input_is_named(name, change, message):
    x, y = laws(9)
    arguments = {"x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name](arguments.pop("x"), arguments.pop("y"), key=KEY, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(distances.mmd2, estimator="linear"), "estimator must be one of 'unbiased', 'block'"),
        (partial(distances.mmd2, bandwidth="mean"), "bandwidth must be one of 'median'"),
        (partial(distances.mmd2, bandwidth=0.0), "bandwidth must be finite and above 0"),
        (partial(distances.mmd2, interval="normal"), "interval must be one of"),
        (partial(distances.mmd2, estimator="block", block_size=7), "block_size is 7, which leaves fewer than two"),
        (partial(distances.mmd2, estimator="block", weights_x=np.arange(N)), "weights_x must be 0 or one other number"),
        (partial(distances.mmd2, interval="bootstrap", weights_y=np.arange(M)), "weights_y must be 0 or one other"),
        (partial(distances.w1, interval="bca"), "interval must be one of"),
        (partial(distances.w1, draws=1), "draws must be a whole number of at least 2"),
        (partial(distances.w1, interval="bootstrap", weights_x=np.arange(N)), "0 or one other number for interval"),
        (partial(distances.w1, interval="bootstrap-refitted"), "give projection"),
        (partial(distances.sliced_w1, directions=1), "directions must be a whole number of at least 2"),
        (partial(distances.max_sliced_w1, starts=0), "starts must be a whole number of at least 1"),
        (partial(distances.max_sliced_w1, iterations=0), "iterations must be a whole number of at least 1"),
        (partial(distances.sinkhorn, convention="ott"), "convention must be one of 'transport', 'entropic'"),
        (partial(distances.sinkhorn, cost="manhattan"), "cost must be one of 'euclidean', 'squared'"),
        (partial(distances.sinkhorn_divergence, epsilon=-1.0), "epsilon must be finite and above 0"),
        (partial(distances.sinkhorn, epsilon=jnp.ones(2)), "epsilon must be one number"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*laws(9), key=KEY)


def test_w1_cannot_be_traced():
    with pytest.raises(ValueError, match="inside jit use sliced_w1 or sinkhorn"):
        jax.jit(lambda x, y: distances.w1(x, y, key=KEY).value)(*laws(9))


@pytest.mark.parametrize(("n", "m", "d"), [(30, 20, 60), (60, 40, 12)], ids=["Gram matrix", "covariance"])
def test_the_host_projects_as_the_device_does(n, m, d, x64):
    """Distances between scores, whose signs are free, under weights that leave a row out."""
    rng = np.random.default_rng(10)
    x, y, weights_x, weights_y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 1, rng.random(n), rng.random(m)
    weights_x[0] = 0
    arguments = [jnp.asarray(part) for part in (x, y, weights_x, weights_y)]
    *host, share = _projection.project(*arguments, 5)
    *device, expected = jax.jit(lambda *parts: _projection.project(*parts, 5))(*arguments)
    (first, second), (other, another) = ([np.asarray(side) for side in sides] for sides in (host, device))
    np.testing.assert_allclose(cdist(first[1:], second), cdist(other[1:], another), rtol=1e-9)
    assert float(share) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("d", [20, 60], ids=["covariance", "Gram matrix"])
def test_the_refitted_bootstrap_is_the_plain_one(d):
    """Resample, fit the axes of the resample, project and solve, one after the other; float64."""
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(2, 24, d)) * np.arange(1, d + 1) ** -0.5
    y = y + 0.3
    rows_x, rows_y, potentials = np.arange(24), np.arange(24, 48), np.zeros(48)
    points = np.concatenate([x, y])
    found = _w1._refitted(points, rows_x, rows_y, 3, potentials, 5, np.random.default_rng(0))
    again, expected = np.random.default_rng(0), []
    for _ in range(5):
        drawn = np.concatenate([again.choice(rows_x, 24), again.choice(rows_y, 24)])
        centred = points[drawn] - points[drawn].mean(axis=0)
        scores = centred @ np.linalg.svd(centred)[2][:3].T
        expected.append(distances.w1_exact(scores[:24], scores[24:]).value)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
