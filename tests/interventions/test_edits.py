"""Edits equal their definition, leave everything else alone, and refuse what does not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import interventions as iv
from gmijax.interventions import _edits

N, T, D, K = 4, 3, 6, 2
KEY = jax.random.key(0)
SEEDS = st.integers(0, 10_000)
MASK = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]], bool)


def states(seed=0):
    return np.random.default_rng(seed).normal(size=(N, T, D)).astype("f4")


def subspace(seed=0, k=K):
    return np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(D, k)))[0].T.astype("f4")


def projected(vector, rows):
    """The component inside the span, direction by direction, float64."""
    total = np.zeros(D)
    for row in rows.astype("f8"):
        total += float(vector @ row) * row
    return total


@given(SEEDS, st.booleans(), st.booleans())
def test_projections_equal_their_definition(seed, centred, whole):
    x, rows = states(seed), subspace(seed)
    centre = np.random.default_rng(seed + 2).normal(size=D).astype("f4") if centred else None
    mask = np.ones((N, T), bool) if whole else MASK
    out = np.asarray(iv.project_out(x, rows, centre=centre, mask=mask))
    kept = np.asarray(iv.keep_only(x, rows, centre=centre, mask=mask))
    origin = np.zeros(D) if centre is None else centre.astype("f8")
    for i, t in np.ndindex(N, T):
        inside = projected(x[i, t].astype("f8") - origin, rows)
        if mask[i, t]:
            np.testing.assert_allclose(out[i, t], x[i, t] - inside, atol=2e-6)
            np.testing.assert_allclose(kept[i, t], origin + inside, atol=2e-6)
        else:
            np.testing.assert_array_equal(out[i, t], x[i, t])
            np.testing.assert_array_equal(kept[i, t], x[i, t])


@given(SEEDS, st.floats(-3, 3))
def test_projections_are_projections(seed, offset):
    x, rows = states(seed), subspace(seed)
    centre = np.full(D, offset, "f4")
    out, kept = (edit(x, rows, centre=centre) for edit in (iv.project_out, iv.keep_only))
    np.testing.assert_allclose(iv.project_out(out, rows, centre=centre), out, atol=5e-6)
    np.testing.assert_allclose(iv.keep_only(kept, rows, centre=centre), kept, atol=5e-6)
    np.testing.assert_allclose(out + kept, x + centre, atol=5e-6)
    np.testing.assert_allclose((out - centre) @ rows.T, 0, atol=5e-6)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(K, K)))[0].astype("f4")
    np.testing.assert_allclose(iv.project_out(x, turn @ rows, centre=centre), out, atol=5e-6)
    everything = subspace(seed, D)
    np.testing.assert_allclose(iv.keep_only(x, everything, centre=centre), x, atol=5e-6)
    np.testing.assert_allclose(
        iv.project_out(x, everything, centre=centre), np.broadcast_to(centre, x.shape), atol=5e-6
    )


def test_a_centre_of_each_sample():
    x, rows = states(), subspace()
    centre = x.mean(1, keepdims=True)
    out = np.asarray(iv.project_out(x, rows, centre=centre))
    for i in range(N):
        np.testing.assert_allclose(out[i], iv.project_out(x[i], rows, centre=centre[i]), atol=1e-6)
    np.testing.assert_allclose(out.mean(1), x.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    "edit",
    [
        partial(iv.project_out, subspace=subspace()),
        partial(iv.keep_only, subspace=subspace()),
        partial(iv.add_noise, subspace=subspace(), scale=1.0, key=KEY),
        partial(iv.swap_means, subspace=subspace(), partner=np.array([1, 2, 3, 0])),
    ],
)
def test_padding_is_neither_edited_nor_read(edit):
    x = states()
    clean = np.asarray(edit(x, mask=MASK))
    dirty = np.asarray(edit(np.where(MASK[..., None], x, np.nan), mask=MASK))
    np.testing.assert_array_equal(dirty[MASK], clean[MASK])
    assert np.isnan(dirty[~MASK]).all()
    np.testing.assert_array_equal(clean[~MASK], x[~MASK])
    np.testing.assert_array_equal(edit(x, mask=MASK.astype(int)), clean)
    slopes = jax.grad(lambda z: jnp.sum(jnp.where(MASK[..., None], edit(z, mask=MASK), 0) ** 2))(
        np.where(MASK[..., None], x, np.nan)
    )
    assert np.isfinite(np.asarray(slopes)[MASK]).all()


@given(SEEDS)
def test_noise_stays_inside(seed):
    x, rows, key = states(seed), subspace(seed), jax.random.key(seed)
    noise = np.asarray(iv.add_noise(x, rows, 2.0, key=key)) - x
    np.testing.assert_allclose(noise, iv.keep_only(noise, rows), atol=5e-6)
    np.testing.assert_allclose(noise, 2 * (np.asarray(iv.add_noise(x, rows, 1.0, key=key)) - x), atol=5e-6)
    np.testing.assert_array_equal(iv.add_noise(x, rows, 0.0, key=key), x)
    assert np.abs(noise - (np.asarray(iv.add_noise(x, rows, 2.0, key=jax.random.key(seed + 1))) - x)).max() > 1e-3


def test_noise_has_the_spread_of_each_direction():
    rows, scale = subspace(), np.array([0.5, 2.0], "f4")
    noise = np.asarray(iv.add_noise(np.zeros((20_000, D), "f4"), rows, scale, key=KEY)) @ rows.T
    covariance = np.cov(noise.T)
    error = 4 * np.sqrt(2 / 20_000)
    np.testing.assert_allclose(np.diag(covariance) / scale**2, 1, atol=error)
    assert abs(covariance[0, 1]) / np.prod(scale) < error


@given(SEEDS)
def test_swaps_equal_their_definition(seed):
    rng = np.random.default_rng(seed)
    x, rows = states(seed), subspace(seed)
    groups, partner = np.array([0, 0, 1, 2]), rng.integers(0, 3, 3)
    out = np.asarray(iv.swap_means(x, rows, groups=groups, partner=partner, mask=MASK))
    means = [x[groups == g].astype("f8")[MASK[groups == g]].mean(0) for g in range(3)]
    for i, t in np.ndindex(N, T):
        shift = projected(means[partner[groups[i]]] - means[groups[i]], rows) if MASK[i, t] else 0
        np.testing.assert_allclose(out[i, t], x[i, t] + shift, atol=2e-6)


@given(SEEDS)
def test_a_swap_exchanges_the_means(seed):
    x, rows, partner = states(seed), subspace(seed), np.array([2, 3, 0, 1])
    out = np.asarray(iv.swap_means(x, rows, partner=partner))
    np.testing.assert_allclose(out.mean(1) @ rows.T, x.mean(1)[partner] @ rows.T, atol=5e-6)
    np.testing.assert_allclose(iv.project_out(out, rows), iv.project_out(x, rows), atol=5e-6)
    np.testing.assert_allclose(out - out.mean(1, keepdims=True), x - x.mean(1, keepdims=True), atol=5e-6)
    np.testing.assert_allclose(iv.swap_means(out, rows, partner=partner), x, atol=1e-5)
    np.testing.assert_allclose(iv.swap_means(x, rows, partner=np.arange(N)), x, atol=1e-6)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=8).filter(lambda g: len(set(g)) > 1), SEEDS)
def test_partners_are_of_another_group(groups, seed):
    groups = np.asarray(groups)
    partner = np.asarray(iv.draw_partners(groups, key=jax.random.key(seed)))
    assert np.all(groups[partner] != groups)


def test_partners_are_uniform():
    groups = np.array([1, 0, 1, 2, 1])
    draws = np.asarray(jax.vmap(lambda key: iv.draw_partners(groups, key=key))(jax.random.split(KEY, 4000)))
    for i, group in enumerate(groups):
        allowed = np.flatnonzero(groups != group)
        counts = np.array([(draws[:, i] == j).sum() for j in allowed])
        share = 1 / len(allowed)
        assert counts.sum() == 4000
        assert np.all(np.abs(counts - 4000 * share) < 4 * np.sqrt(4000 * share * (1 - share)))


def test_types_are_kept():
    x, rows = states(), subspace()
    half = iv.project_out(jnp.asarray(x, jnp.bfloat16), rows)
    assert half.dtype == jnp.bfloat16
    full = iv.project_out(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), rows)
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))  # edited in float32, rounded once
    assert iv.project_out(np.ones((2, D), int), rows).dtype == jnp.float32


def test_float64_is_float64(x64):
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(5, D)), np.linalg.qr(rng.normal(size=(D, K)))[0].T
    for edit in (iv.project_out, iv.keep_only, partial(iv.swap_means, partner=np.array([1, 0, 3, 2, 4]))):
        assert edit(x, rows).dtype == np.float64
    np.testing.assert_allclose(iv.project_out(x, rows), x - x @ rows.T @ rows, atol=1e-14)


def test_jit_vmap_and_strict_types_agree(strict):
    x, rows = jnp.asarray(states()), jnp.asarray(subspace())
    centre, mask, partner = jnp.ones(D), jnp.asarray(MASK), jnp.asarray([1, 0, 3, 2])
    for edit in (
        lambda z, m: iv.project_out(z, rows, centre=centre, mask=m),
        lambda z, m: iv.keep_only(z, rows, mask=m),
        lambda z, m: iv.add_noise(z, rows, jnp.asarray(0.5), mask=m, key=KEY),
        lambda z, m: iv.swap_means(z, rows, partner=partner, mask=m),
    ):
        plain = edit(x, mask)
        np.testing.assert_allclose(jax.jit(edit)(x, mask), plain, atol=1e-6)
    mapped = jax.vmap(lambda z, m: iv.project_out(z, rows, centre=centre, mask=m))(x, mask)
    np.testing.assert_allclose(mapped, iv.project_out(x, rows, centre=centre, mask=mask), atol=1e-6)
    several = jnp.stack([rows, jnp.asarray(subspace(5))])
    mapped = jax.vmap(lambda u: iv.project_out(x, u))(several)
    for i in range(2):
        np.testing.assert_allclose(mapped[i], iv.project_out(x, several[i]), atol=1e-6)


def test_each_edit_compiles_once():
    kernels = (_edits._project_out, _edits._keep_only, _edits._add_noise, _edits._swap_means)
    counts = []
    for seed in range(3):
        x, rows = states(seed)[:, :, :5], np.eye(5, dtype="f4")[:3]
        iv.project_out(x, rows, mask=MASK)
        iv.keep_only(x, rows, mask=MASK)
        iv.add_noise(x, rows, float(seed), mask=MASK, key=jax.random.key(seed))
        iv.swap_means(x, rows, partner=np.array([1, 0, 3, 2]), mask=MASK)
        counts.append([kernel._cache_size() for kernel in kernels])
    assert counts[0] == counts[1] == counts[2]


def test_gradients_are_projected():
    x, rows = states()[0, 0], subspace()
    jacobian = jax.jacobian(lambda z: iv.project_out(z, rows))(x)
    np.testing.assert_allclose(jacobian, np.eye(D) - rows.T @ rows, atol=1e-6)
    by_scale = jax.grad(lambda s: jnp.sum(iv.add_noise(x, rows, s, key=KEY) ** 2))(0.3)
    step = 1e-2
    ends = [np.sum(np.asarray(iv.add_noise(x, rows, 0.3 + e, key=KEY), "f8") ** 2) for e in (step, -step)]
    np.testing.assert_allclose(by_scale, (ends[0] - ends[1]) / (2 * step), rtol=1e-3)


def test_what_does_not_fit_is_told():
    x, rows = states(), subspace()
    skewed = rows + np.array([[0.1], [0]], "f4")
    for edit in (
        iv.project_out,
        iv.keep_only,
        partial(iv.add_noise, scale=1.0, key=KEY),
        partial(iv.swap_means, partner=np.arange(N)),
    ):
        for arguments, message in (
            ((x, skewed), r"not orthonormal: their inner products are off by up to 0\.\d+.*np.linalg.qr"),
            ((x, 2 * rows), "off by up to 3"),
            ((x, np.vstack([rows, rows])), "off by up to 1"),
            ((x, np.full_like(rows, np.nan)), "off by up to nan"),
            ((x, rows[0]), r"must be \(k, width\)"),
            ((x, rows[:0]), "1 <= k <= width"),
            ((x, np.eye(7)[:, :D]), "1 <= k <= width"),
            ((x[..., :5], rows), "subspace has width 6 and the states have width 5"),
            ((np.full_like(x, np.nan), rows), r"NaN or infinite values at 12 positions to edit, the first at \(0, 0\)"),
            ((x[:, :0], rows), "matched no position"),
        ):
            with pytest.raises(ValueError, match=message):
                edit(*arguments)
        for mask, message in (
            (np.zeros((N, T), bool), "matched no position: mask is false everywhere"),
            (np.ones((N, T + 1), bool), r"mask must have shape \(4, 3\)"),
            (np.ones((N, T)), "type float"),
        ):
            with pytest.raises(ValueError, match=message):
                edit(x, rows, mask=mask)
    with pytest.raises(ValueError, match=r"x must be states \(\.\.\., width\)"):
        iv.project_out(1.0, rows)


def test_bad_options_are_told():
    x, rows = states(), subspace()
    for call, message in (
        (lambda: iv.project_out(x, rows, centre=np.zeros(5)), "centre has shape .* width 6"),
        (lambda: iv.project_out(x, rows, centre=np.zeros((2, 1, D))), "does not broadcast"),
        (lambda: iv.project_out(x[0], rows, centre=np.zeros((N, T, D))), "does not broadcast"),
        (lambda: iv.keep_only(x, rows, centre=np.full(D, np.inf)), "centre holds NaN or infinite"),
        (lambda: iv.add_noise(x, rows, -1.0, key=KEY), "scale must be finite and >= 0"),
        (lambda: iv.add_noise(x, rows, np.ones(3), key=KEY), "one of each of the 2 directions"),
        (lambda: iv.swap_means(x, rows, partner=np.arange(3)), "one for each of the 4 samples, got 3"),
        (lambda: iv.swap_means(x, rows, partner=np.array([0, 1, 2, 4])), r"partner must lie in 0\.\.3"),
        (lambda: iv.swap_means(x, rows, partner=np.arange(4.0)), "partner must be integers"),
        (lambda: iv.swap_means(x, rows, partner=[1, 0], groups=[0, 0, 1, 2]), r"groups must lie in 0\.\.1"),
        (lambda: iv.swap_means(x, rows, partner=[1, 0], groups=[0, 0, 1]), r"groups must be integers of shape \(4,\)"),
        (lambda: iv.swap_means(x, rows, partner=[1, 1], groups=[0, 0, 0, 0]), "partner of group 0, group 1, has no"),
        (lambda: iv.swap_means(x[0, 0], rows, partner=np.arange(6)), "between samples"),
        (lambda: iv.draw_partners(np.zeros(4, int), key=KEY), "at least two groups"),
        (lambda: iv.draw_partners(np.zeros((2, 2), int), key=KEY), r"shape \(n,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
