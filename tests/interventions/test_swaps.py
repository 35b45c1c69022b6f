"""KL for each unit of squared displacement: its definition, its small-step limit, and its interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import interventions as iv
from gmijax.interventions import _swaps

N, V, D = 50, 7, 4
WEIGHT = np.random.default_rng(9).normal(size=(D, V))


def logits(seed, shape=(N, V)):
    return np.random.default_rng(seed).normal(0, 2, shape).astype("f4")


@given(st.integers(0, 1000))
def test_equals_its_definition(seed):
    before, after = logits(seed), logits(seed + 1)
    moved = np.random.default_rng(seed).uniform(0, 2, N)
    targets = np.random.default_rng(seed).integers(0, V, N)
    got = iv.swap_effect(before, after, moved, targets=targets)
    p, q = (np.exp(x.astype("f8")) / np.exp(x.astype("f8")).sum(1, keepdims=True) for x in (before, after))
    kl = (p * np.log(p / q)).sum(1)
    np.testing.assert_allclose(got.divergences, kl, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.value, kl.sum() / moved.sum(), rtol=1e-5)
    changes = np.log(p[np.arange(N), targets]) - np.log(q[np.arange(N), targets])
    np.testing.assert_allclose(got.loss_changes, changes, atol=1e-5)
    np.testing.assert_allclose(got.loss_change, changes.mean(), atol=1e-5)
    residual = kl - kl.sum() / moved.sum() * moved
    np.testing.assert_allclose(got.standard_error, residual.std(ddof=1) / np.sqrt(N) / moved.mean(), rtol=1e-4)


@given(st.integers(0, 1000), st.floats(-20, 20), st.floats(0.1, 10))
def test_invariances(seed, shift, factor):
    before, after, moved = logits(seed), logits(seed + 1), np.full(N, 0.5)
    got = iv.swap_effect(before, after, moved)
    shifted = iv.swap_effect(before + np.float32(shift), after, moved * factor)
    np.testing.assert_allclose(shifted.divergences, got.divergences, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shifted.value * factor, got.value, rtol=1e-4)
    assert got.loss_changes is None
    assert (np.asarray(got.divergences) >= 0).all()
    still = iv.swap_effect(before, before, moved)
    assert (still.value, still.standard_error) == (0, 0)


def test_a_small_step_measures_half_the_fisher_form(x64):
    """Softmax of W'z: KL(z, z + e u) / e^2 tends to u' W (diag p - p p') W' u / 2."""
    z, u = np.random.default_rng(1).normal(size=(2, N, D))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    step = 1e-4
    got = iv.swap_effect(z @ WEIGHT, (z + step * u) @ WEIGHT, np.full(N, step**2))
    p = np.asarray(jax.nn.softmax(z @ WEIGHT))
    along = u @ WEIGHT
    fisher = (p * along**2).sum(1) - (p * along).sum(1) ** 2
    np.testing.assert_allclose(got.divergences / step**2, fisher / 2, rtol=1e-3)
    np.testing.assert_allclose(got.value, fisher.mean() / 2, rtol=1e-4)


def test_float32_keeps_small_divergences():
    """A KL of 1e-9 is no rounding of 1: the terms are written so that nothing cancels."""
    before = logits(0)
    step = (3e-5 * np.random.default_rng(0).normal(size=(N, V))).astype("f4")
    got = iv.swap_effect(np.zeros_like(before), step, np.ones(N))
    exact = -np.mean(step.astype("f8") - np.log(np.mean(np.exp(step.astype("f8")), 1, keepdims=True)), 1)
    np.testing.assert_allclose(got.divergences, exact, rtol=0.1)


def test_jit_vmap_and_one_program():
    before, after, moved = logits(0, (3, N, V)), logits(1, (3, N, V)), np.ones((3, N), "f4")
    mapped = jax.vmap(lambda *arrays: iv.swap_effect(*arrays).value)(before, after, moved)
    count = _swaps._swap_effect._cache_size()
    for i in range(3):
        np.testing.assert_allclose(mapped[i], iv.swap_effect(before[i], after[i], moved[i]).value, rtol=1e-5)
    assert _swaps._swap_effect._cache_size() <= count + 1
    slope = jax.grad(lambda x: iv.swap_effect(before[0], x, moved[0]).value)(after[0])
    p, q = jax.nn.softmax(before[0]), jax.nn.softmax(after[0])
    np.testing.assert_allclose(slope, (q - p) / N, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.5, 1.5])
def test_the_interval_covers(size):
    """Random states, steps of random length; 92 to 98 % of 600 samples of 100, the truth from 400 000 draws."""
    weight = jnp.asarray(WEIGHT, jnp.float32)

    def draw(key, n):
        key_z, key_u = jax.random.split(key)
        z, u = jax.random.normal(key_z, (n, D)), size * jax.random.normal(key_u, (n, D))
        return iv.swap_effect(z @ weight, (z + u) @ weight, jnp.sum(u**2, 1))

    truth = float(draw(jax.random.key(0), 400_000).value)

    @jax.jit
    def one(key):
        ends = draw(key, 100).interval
        return (ends.lower <= truth) & (truth <= ends.upper)

    covered = jax.lax.map(one, jax.random.split(jax.random.key(1), 600))
    assert 0.92 < np.mean(covered) < 0.98


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits_after": logits(1)[:, :5]}, r"share a shape .* got \(50, 7\) and \(50, 5\)"),
        ({"logits_before": logits(1)[0], "logits_after": logits(1)[0]}, "share a shape"),
        ({"logits_before": logits(1)[:1], "logits_after": logits(1)[:1]}, "n >= 2"),
        ({"logits_after": np.full((N, V), np.nan)}, "logits_after holds NaN"),
        ({"squared_displacements": np.ones(3)}, r"must have shape \(50,\)"),
        ({"squared_displacements": np.zeros(N)}, "the swap moved nothing"),
        ({"squared_displacements": -np.ones(N)}, ">= 0"),
        ({"targets": np.full(N, V)}, r"targets\[0\] = 7 is outside the 7 tokens"),
        ({"level": 1.5}, "level must lie strictly"),
    ],
)
def test_bad_input_is_told(changes, message):
    given_ = {"logits_before": logits(0), "logits_after": logits(1), "squared_displacements": np.ones(N), **changes}
    with pytest.raises(ValueError, match=message):
        iv.swap_effect(**given_)
