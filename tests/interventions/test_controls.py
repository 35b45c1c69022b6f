"""Controls hold what they promise: as many modes, the same variance, or a uniform rotation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmijax import interventions as iv
from gmijax.interventions._controls import _controls

K, D = 8, 12
KEY = jax.random.key(0)
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(D, K)))[0].T.astype("f4")
EIGENVALUES = (4.0 * 0.7 ** np.arange(K)).astype("f4")
SPECTRA = st.lists(st.floats(0.01, 10), min_size=K, max_size=K)


def variance(subspace, eigenvalues=EIGENVALUES):
    """tr U Sigma U', float64."""
    rows = np.asarray(subspace, "f8") @ DIRECTIONS.T.astype("f8")
    return float(np.sum(rows**2 * np.asarray(eigenvalues, "f8")))


def check_orthonormal(subspaces):
    for rows in np.asarray(subspaces):
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=5e-6)
        np.testing.assert_allclose(rows @ DIRECTIONS.T @ DIRECTIONS, rows, atol=5e-6)  # inside the span


@pytest.mark.slow
@settings(max_examples=15)
@given(SPECTRA, st.sampled_from(list(itertools.combinations(range(K), 3))), st.integers(0, 1000))
def test_variance_is_matched_wherever_it_can_be(spectrum, target, seed):
    spectrum = np.asarray(spectrum, "f4")
    got = iv.matched_controls(
        DIRECTIONS, spectrum, np.array(target), match="variance", draws=5, key=jax.random.key(seed)
    )
    check_orthonormal(got.subspaces)
    np.testing.assert_allclose(np.asarray(got.subspaces) @ DIRECTIONS[list(target)].T, 0, atol=5e-6)
    others = np.sort(np.delete(spectrum, target).astype("f8"))[::-1]
    wanted = spectrum[list(target)].astype("f8").sum()
    count = got.subspaces.shape[1]
    enough = [c for c in range(3, 6) if others[:c].sum() >= wanted * (1 - 1e-6)]
    assert count in (enough[0] if enough else 5, min(5, (enough[0] if enough else 5) + 1))
    lowest, highest = others[-count:].sum(), others[:count].sum()
    expected = np.clip(wanted, lowest, highest)
    for rows, held, residual in zip(got.subspaces, got.variances, got.residuals, strict=True):
        np.testing.assert_allclose(held, expected, rtol=1e-5)
        np.testing.assert_allclose(variance(rows, spectrum), expected, rtol=2e-5)
        np.testing.assert_allclose(residual, expected / wanted - 1, atol=1e-5)


def test_as_many_modes_when_these_can_hold_as_much():
    got = iv.matched_controls(DIRECTIONS, EIGENVALUES, [2, 5, 6], match="variance", draws=5, key=KEY)
    assert got.subspaces.shape == (5, 3, D)
    np.testing.assert_allclose(got.residuals, 0, atol=1e-5)
    assert len(np.unique(np.round(np.asarray(got.subspaces)[:, :, 0], 4), axis=0)) >= 3  # the draws differ


@pytest.mark.slow
def test_more_modes_when_they_cannot_and_the_rest_is_told():
    spectrum = np.array([5, 2, 2, 2, 1, 1, 0.5, 0.5], "f4")
    got = iv.matched_controls(DIRECTIONS, spectrum, [0], match="variance", draws=5, key=KEY)
    assert got.subspaces.shape[1] == 3  # 2 + 2 + 2 >= 5 > 2 + 2
    np.testing.assert_allclose(got.variances, 5, rtol=1e-5)
    got = iv.matched_controls(DIRECTIONS, spectrum, [0, 1, 2], match="variance", draws=5, key=KEY)
    assert got.subspaces.shape[1] == 5
    np.testing.assert_allclose(got.residuals, 5 / 9 - 1, rtol=1e-5)


def test_count_draws_subsets_of_the_others_evenly():
    got = iv.matched_controls(DIRECTIONS, EIGENVALUES, np.arange(K) < 4, match="count", draws=2, key=KEY)
    assert {tuple(np.sort(np.round(v, 4))) for v in np.asarray(got.subspaces)[..., 0]} == {
        tuple(np.sort(np.round(DIRECTIONS[4:, 0], 4)))
    }
    got = iv.matched_controls(DIRECTIONS, EIGENVALUES, [1, 3], match="count", draws=3000, key=KEY)
    check_orthonormal(got.subspaces[:5])
    used = np.sum(np.abs(np.asarray(got.subspaces) @ DIRECTIONS.T) > 0.5, axis=1)
    assert used[:, [1, 3]].sum() == 0
    share = used.mean(0)[[0, 2, 4, 5, 6, 7]]
    assert np.all(np.abs(share - 1 / 3) < 4 * np.sqrt(2 / 9 / 3000))
    np.testing.assert_allclose(got.variances, used @ EIGENVALUES, rtol=1e-5)


@pytest.mark.slow
def test_rotations_are_uniform():
    got = iv.matched_controls(DIRECTIONS, EIGENVALUES, [0, 1], match="rotation", draws=4000, key=KEY)
    check_orthonormal(got.subspaces[:5])
    rows = np.asarray(got.subspaces) @ DIRECTIONS.T
    mean = np.einsum("rki,rkj->ij", rows, rows) / 4000
    np.testing.assert_allclose(mean, 2 / K * np.eye(K), atol=4 * np.sqrt(2 / K / 4000))
    for subspace, held in zip(got.subspaces[:5], got.variances, strict=False):
        np.testing.assert_allclose(variance(subspace), held, rtol=1e-5)


def test_keys_decide_and_one_program_serves():
    def draw(seed, spectrum=EIGENVALUES):
        return iv.matched_controls(DIRECTIONS, spectrum, [0, 4], match="count", draws=6, key=jax.random.key(seed))

    first = draw(1)
    before = _controls._cache_size()
    np.testing.assert_array_equal(draw(1).subspaces, first.subspaces)
    assert np.abs(np.asarray(draw(2, EIGENVALUES**2).subspaces) - np.asarray(first.subspaces)).max() > 0.1
    assert _controls._cache_size() == before
    jitted = jax.jit(
        lambda u, v: iv.matched_controls(u, v, [0, 4], match="count", draws=6, key=jax.random.key(1)).variances
    )
    np.testing.assert_allclose(jitted(DIRECTIONS, EIGENVALUES), first.variances, rtol=1e-6)


def test_controls_become_conditions():
    got = iv.matched_controls(DIRECTIONS, EIGENVALUES, [0, 4], match="count", draws=6, key=KEY)
    x, centre = np.random.default_rng(0).normal(size=(2, 4, D)).astype("f4"), np.ones(D, "f4")
    conditions = got.conditions("others", centre=centre)
    assert list(conditions) == [f"others {i}" for i in range(6)]
    for i, edit in enumerate(conditions.values()):
        np.testing.assert_array_equal(edit(x), iv.project_out(x, got.subspaces[i], centre=centre))
    kept = got.conditions("kept", iv.keep_only)["kept 1"](x)
    np.testing.assert_array_equal(kept, iv.keep_only(x, got.subspaces[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"match": "size"}, "match must be one of 'count', 'variance', 'rotation', got 'size'"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"directions": DIRECTIONS * 1.01}, "directions are not orthonormal"),
        ({"directions": DIRECTIONS[0]}, "directions must be"),
        ({"eigenvalues": EIGENVALUES[:-1]}, r"eigenvalues must have shape \(8,\), one a direction, got \(7,\)"),
        ({"eigenvalues": -EIGENVALUES}, "finite and >= 0"),
        ({"target": [0, 1, 2, 3, 4]}, "5 modes are to be ablated and only 3 others are given: fewer modes"),
        ({"target": []}, "at least one mode"),
        ({"target": [0, 0]}, r"distinct modes in 0\.\.7"),
        ({"target": [8]}, r"distinct modes in 0\.\.7"),
        ({"target": np.ones(3, bool)}, r"mask must have shape \(8,\)"),
        ({"target": np.zeros(K, bool)}, "at least one mode"),
        ({"target": [0.5]}, "by integers or a mask"),
        ({"eigenvalues": np.where(np.arange(K) == 0, 0, 1.0), "target": [0]}, "no variance"),
    ],
)
def test_bad_input_is_told(changes, message):
    given_ = {"directions": DIRECTIONS, "eigenvalues": EIGENVALUES, "target": [0, 1], "match": "count", **changes}
    with pytest.raises(ValueError, match=message):
        iv.matched_controls(**given_, key=KEY)


@pytest.mark.slow
def test_vmap_over_keys():
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(
        lambda key: (
            iv.matched_controls(DIRECTIONS, EIGENVALUES, [1, 2, 3], match="variance", draws=5, key=key).subspaces
        )
    )(keys)
    for i in range(3):
        one = iv.matched_controls(DIRECTIONS, EIGENVALUES, [1, 2, 3], match="variance", draws=5, key=keys[i])
        np.testing.assert_allclose(many[i], one.subspaces, atol=1e-6)
    assert jnp.isfinite(many).all()
