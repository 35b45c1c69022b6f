"""The search: known maxima, regions, what it promises and what it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmijax.sensitivity import gradient_norms, searched_slope

KEY = jax.random.key(0)


def hill(operands, z):
    """A share of a score whose slope is largest at `centre`, 0.5 a coordinate, and of one whose slope is |z|.

    One function, so that the searches of most tests share their programs.
    """
    centre, share = operands
    inner = jnp.sum(jax.nn.sigmoid(2 * (z - centre)), axis=1)
    return share * inner + (1 - share) * jnp.sum(z**2, axis=1) / 2


def quadratic(_, z):
    return jnp.sum(z**2, axis=1) / 2


def leaking(operands, z):
    """Reads padding where it can."""
    return jnp.sum(operands * z, axis=(1, 2)) ** 2


def search(points, centre, region, share=1.0, key=KEY, **options):
    options = {"starts": 4, "steps": 40, "batch_size": 4, **options}
    operands = (centre, np.float32(share))
    return searched_slope(hill, points, operands=operands, space="z", region=region, key=key, **options)


def test_an_inner_maximum_is_found_and_has_settled():
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    points = (signs * [2.0, 1.5, 1.0]).astype("f4")
    centre = np.array([0.2, -0.1, 0.3], "f4")
    for region in ("ball", "box", "hull"):
        found = search(points, centre, region)
        assert found.value == pytest.approx(0.5 * 3**0.5, rel=1e-3)
        np.testing.assert_allclose(found.point, centre, atol=0.06)
        assert found.on_boundary is {"ball": False, "box": False, "hull": None}[region]
        assert found.value > found.sampled_maximum
        assert (np.diff(found.path) >= 0).all()
        assert found.by_start.max() == found.path[-1] == pytest.approx(found.value)
        if region != "hull":  # steps towards corners zigzag, and do not settle as fast
            assert found.converged
            assert found.value == pytest.approx(0.5 * 3**0.5, rel=1e-6)


def test_a_slope_that_grows_outwards_ends_on_the_border():
    """|grad| = |z|: largest at the ball's farthest point from the origin, at a corner of the box and of the hull."""
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(8, 3)) + 2).astype("f4")
    centre = points.mean(0)
    radius = np.linalg.norm(points - centre, axis=1).max()
    corner = np.maximum(abs(points.min(0)), abs(points.max(0)))
    largest = {
        "ball": np.linalg.norm(centre) + radius,
        "box": np.linalg.norm(corner),
        "hull": np.linalg.norm(points, axis=1).max(),
    }
    for region, expected in largest.items():
        found = search(points, np.zeros(3, "f4"), region, share=0)
        assert found.value == pytest.approx(expected, rel=1e-4)
        assert found.on_boundary is not False
        assert (found.kind, found.space, found.n, found.region) == ("searched", "z", 8, region)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_it_stays_in_the_region_and_is_never_below_the_samples(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(8, 3)).astype("f4")
    weights = rng.normal(size=3).astype("f4")
    for region in ("ball", "box", "hull"):
        found = search(points, weights, region)
        assert found.value >= found.sampled_maximum
        at_point = gradient_norms(hill, found.point[None], operands=(weights, np.float32(1)))[0]
        assert found.path[-1] == pytest.approx(at_point, rel=1e-5)
        if region == "ball":
            offset = points - points.mean(0)
            assert np.linalg.norm(found.point - points.mean(0)) <= np.linalg.norm(offset, axis=1).max() * (1 + 1e-5)
        else:  # the hull lies in the box
            assert (found.point >= points.min(0) - 1e-5).all()
            assert (found.point <= points.max(0) + 1e-5).all()


def test_a_linear_score_has_one_slope_and_the_search_says_it_settled():
    points = np.random.default_rng(2).normal(size=(5, 4)).astype("f4")
    found = searched_slope(lambda w, z: z @ w, points, operands=jnp.arange(4.0), space="z", key=KEY)
    assert found.value == pytest.approx(14**0.5, rel=1e-6)
    assert found.converged


def test_too_few_steps_are_told():
    points = np.random.default_rng(5).normal(size=(8, 3)).astype("f4")
    assert not search(points, np.zeros(3, "f4"), "ball", steps=2).converged


def test_piecewise_linear_scores_are_climbed_by_chance():
    """The kink is steeper than what lies at the points: curvature is zero everywhere, random steps find it."""

    def kink(_, z):
        return jnp.sum(jax.nn.relu(z) * jnp.asarray([1.0, 3.0]), axis=1)

    points = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 0.9]], "f4") * np.array([1, 0.01], "f4")
    found = searched_slope(kink, points, space="z", region="box", steps=40, key=KEY)
    assert found.sampled_maximum == pytest.approx(3.0)
    assert found.value == pytest.approx(10**0.5, rel=1e-6)


def test_batches_and_keys():
    points, weights = np.random.default_rng(3).normal(size=(8, 3)).astype("f4"), np.array([0.1, 0.2, 0.3], "f4")
    one, three = search(points, weights, "ball"), search(points, weights, "ball", batch_size=3)
    np.testing.assert_allclose(one.by_start, three.by_start, rtol=1e-5)
    other = search(points, weights, "ball", key=jax.random.key(1))
    assert not np.array_equal(other.by_start, one.by_start)
    again = search(points, weights, "ball")
    np.testing.assert_array_equal(again.path, one.path)


def test_padding_stays_zero_and_is_not_searched():
    rng = np.random.default_rng(4)
    points, mask = rng.normal(size=(4, 3, 2)).astype("f4"), np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]])
    spoilt, weights = np.where(mask[..., None], points, np.nan).astype("f4"), jnp.asarray([1.0, 2.0])
    found = searched_slope(leaking, spoilt, operands=weights, mask=mask, space="z", region="hull", steps=5, key=KEY)
    assert np.isfinite(found.point).all()
    own = mask[found.sample]
    assert (found.point[own == 0] == 0).all()
    slope = gradient_norms(leaking, found.point[None], operands=weights, mask=own[None])[0]
    assert found.path[-1] == pytest.approx(slope, rel=1e-5)


def test_bad_input_is_named():
    points = np.ones((3, 2), "f4")
    for arguments, message in (
        ({"region": "sphere"}, "region must be one of 'ball', 'box', 'hull', got 'sphere'"),
        ({"starts": 0}, "starts and steps must be at least 1, got 0 and 40"),
        ({"steps": 0}, "starts and steps must be at least 1"),
        ({"mask": np.ones((3, 2))}, "mask has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            searched_slope(quadratic, points, space="z", key=KEY, **arguments)
    with pytest.raises(ValueError, match="the gradient of sample 1 is not finite"):
        searched_slope(lambda _, z: jnp.sum(jnp.sqrt(z), axis=1), np.array([[1.0], [0.0]], "f4"), space="z", key=KEY)
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda z: searched_slope(quadratic, z, space="z", key=KEY).value)(points)
