"""B7's local law: closed forms, an exact removal it approximates, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import bounds
from gmijax.rates import channels


def laws(seed=0, size=5):
    rng = np.random.default_rng(seed)
    fisher, covariance = (x @ x.T for x in rng.normal(size=(2, size, size)))
    rows = np.linalg.qr(rng.normal(size=(size, size)))[0][:2]
    return fisher, covariance, rows


def test_trace_formula_and_shares(x64):
    fisher, covariance, rows = laws()
    found = bounds.local_removal(fisher, covariance, rows)
    expected = 0.5 * np.trace(rows @ fisher @ rows.T @ rows @ covariance @ rows.T)
    shares = [0.5 * (u @ fisher @ u) * (u @ covariance @ u) for u in rows]
    assert found.cost == pytest.approx(expected, rel=1e-12)
    assert found.kappa == pytest.approx(shares, rel=1e-12)
    assert found.crossed == pytest.approx(expected - sum(shares), rel=1e-9)
    within = bounds.local_removal(rows @ fisher @ rows.T, rows @ covariance @ rows.T)
    assert within.cost == pytest.approx(expected, rel=1e-12)


def test_eigenmodes_add_up(x64):
    """kappa_k = lambda_k u_k' F u_k / 2, and nothing is crossed; a turn within the subspace leaves the cost."""
    fisher, covariance, _ = laws(1)
    values, vectors = np.linalg.eigh(covariance)
    found = bounds.local_removal(fisher, covariance, vectors.T)
    assert found.kappa == pytest.approx(values * np.einsum("dk,de,ek->k", vectors, fisher, vectors) / 2, rel=1e-10)
    assert found.crossed == pytest.approx(0, abs=1e-10 * float(found.cost))
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    assert bounds.local_removal(fisher, covariance, turn).cost == pytest.approx(float(found.cost), rel=1e-10)


def test_a_small_direction_of_a_gaussian_decoder_costs_the_trace():
    """Y = Z_1 + Z_2 + N(0, 1), matched, Z_2 of variance v removed: what is left reads Z_1 under noise 1 + v."""
    power = 3.0
    shares = []
    for variance in (1.0, 0.1, 0.01):
        left = channels.ScalarGaussian(1.0, power, channels.Noise("gaussian", 1 + variance), 1.0, 1.0)
        exact = 0.5 * math.log1p(power + variance) - float(left.curve(np.ones(1))[0])
        law = bounds.local_removal(np.ones((2, 2)), np.diag([power, variance]), np.array([[0.0, 1.0]]))
        assert float(law.cost) == pytest.approx(variance / 2, rel=1e-6)
        shares.append(exact / float(law.cost))
    # To next order the share is 1 - v / (2 (1 + P)^2).
    assert shares == pytest.approx([1 - variance / 32 for variance in (1.0, 0.1, 0.01)], abs=6e-3)
    assert shares[2] == pytest.approx(1 - 0.01 / 32, abs=2e-6)


def test_pure():
    fisher, covariance, rows = (np.float32(part) for part in laws())
    plain = bounds.local_removal(fisher, covariance, rows)
    assert plain.cost.dtype == np.float32
    batch = [np.stack([part, part]) for part in (fisher, covariance, rows)]
    batched = jax.jit(jax.vmap(bounds.local_removal))(*batch)
    assert batched.cost == pytest.approx([float(plain.cost)] * 2, rel=1e-5)
    slope = jax.grad(lambda f: bounds.local_removal(f, covariance, rows).cost)(jnp.asarray(fisher))
    projected = rows.T @ rows @ covariance @ rows.T @ rows
    assert slope == pytest.approx(projected / 2, rel=1e-4, abs=1e-5)


def test_what_cannot_be_used_is_refused():
    fisher, covariance, rows = laws()
    with pytest.raises(ValueError, match="subspace must have orthonormal rows"):
        bounds.local_removal(fisher, covariance, 2 * rows)
    with pytest.raises(ValueError, match="subspace must hold rows of 5 entries"):
        bounds.local_removal(fisher, covariance, rows.T)
    with pytest.raises(ValueError, match="covariance must be a square matrix of the size of fisher"):
        bounds.local_removal(fisher, covariance[:4, :4])
    with pytest.raises(ValueError, match="fisher must be finite and symmetric"):
        bounds.local_removal(np.triu(fisher), covariance)
    with pytest.raises(ValueError, match="covariance must be finite and symmetric"):
        bounds.local_removal(fisher, covariance * np.nan)
    with pytest.raises(ValueError, match="fisher must be a square matrix"):
        bounds.local_removal(np.ones(3), covariance)
