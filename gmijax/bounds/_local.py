"""B7: what removing a subspace costs a matched decoder, to second order."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

ORTHONORMAL = 1e-4  # float32 directions from an eigensolver are orthonormal to about 1e-6


class LocalRemoval(NamedTuple):
    """The local Fisher law of a removal, nats.

    Attributes:
      cost: 1/2 tr(U F U' U Sigma U'), U the subspace's rows: how much I(1) falls, to second order.
      kappa: each direction's own share, u F u' u Sigma u' / 2; for eigenmodes of Sigma, lambda_k u_k' F u_k / 2.
      crossed: `cost` less the sum of `kappa`: what directions cost together. 0 for eigenmodes of Sigma.
    """

    cost: Float[Array, ""]
    kappa: Float[Array, " k"]
    crossed: Float[Array, ""]


def local_removal(fisher: ArrayLike, covariance: ArrayLike, subspace: ArrayLike | None = None) -> LocalRemoval:
    """B7: removing a subspace about E[Z | C] costs a matched decoder about 1/2 tr(U F U' U Sigma U') at s = 1.

    A second-order law, not a bound: the ends of `edit_bracket`'s `second_order` are certified. It takes F and Z as
    uncorrelated, and says nothing of a decoder that is fitted again, which loses less. Under mismatch, add the
    first-order term of `edit_bracket`, which may be a gain. Pure; jits, vmaps and differentiates.

    Args:
      fisher: F = E g g', shape (d, d), nats; g is the gradient of the score in z with y drawn from the decoder (its
        Fisher pullback). With true y it is the same only where the decoder is calibrated.
      covariance: Sigma = E Cov(Z | C), shape (d, d), within contexts: the pooled covariance is wrong by orders of
        magnitude where contexts shift z.
      subspace: orthonormal rows, shape (k, d). None where both matrices are already written in the subspace.

    Returns:
      The cost, by direction and in all.

    Raises:
      ValueError: for shapes that do not fit, values that are not finite, matrices that are not symmetric, or rows that
        are not orthonormal (values are not checked under a trace).
    """
    tables = {"fisher": fisher, "covariance": covariance}
    size = np.shape(fisher)[:1]
    for name, table in tables.items():
        if np.shape(table) != size * 2 or not size or 0 in size:
            raise ValueError(f"{name} must be a square matrix of the size of fisher, got shape {np.shape(table)}")
        if not _seen(table, lambda x: np.isfinite(x).all() and np.allclose(x, x.T, rtol=0, atol=1e-4 * abs(x).max())):
            raise ValueError(f"{name} must be finite and symmetric")
    dtype = jnp.result_type(*(jnp.asarray(table) for table in tables.values()), jnp.float32)
    within_fisher, within_covariance = (jnp.asarray(table, dtype) for table in tables.values())
    if subspace is not None:
        if np.ndim(subspace) != 2 or np.shape(subspace)[1:] != size:
            raise ValueError(f"subspace must hold rows of {size[0]} entries, got shape {np.shape(subspace)}")
        if not _seen(subspace, lambda u: np.allclose(u @ u.T, np.eye(len(u)), rtol=0, atol=ORTHONORMAL)):
            raise ValueError("subspace must have orthonormal rows: take the Q of a QR decomposition of its transpose")
        rows = jnp.asarray(subspace, dtype)
        within_fisher, within_covariance = (rows @ table @ rows.T for table in (within_fisher, within_covariance))
    cost = 0.5 * jnp.sum(within_fisher * within_covariance)  # both are symmetric: the trace of their product
    kappa = 0.5 * jnp.diagonal(within_fisher) * jnp.diagonal(within_covariance)
    return LocalRemoval(cost, kappa, cost - jnp.sum(kappa))


def _seen(array: Any, condition: Any) -> bool:
    """Whether a condition holds, where the values can be seen."""
    return isinstance(array, Tracer) or bool(condition(np.asarray(array, np.float64)))
