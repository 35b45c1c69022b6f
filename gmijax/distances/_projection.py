"""Projection of two samples to the principal axes of both together."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gmijax._checks import check_count


def principal_axes(
    points: Float[Array, "n d"], weights: Float[Array, " n"], top: int
) -> tuple[Float[Array, "d top"], Array]:
    """The top principal axes of weighted rows, and the share of the variance that they leave out."""
    centred = points - (weights @ points) / jnp.sum(weights)
    scaled = jnp.sqrt(weights)[:, None] * centred
    if points.shape[0] < points.shape[1]:
        eigenvalues, vectors = jnp.linalg.eigh(scaled @ scaled.T)
    else:
        eigenvalues, vectors = jnp.linalg.eigh(scaled.T @ scaled)
    total = jnp.sum(jnp.maximum(eigenvalues, 0))
    eigenvalues, vectors = eigenvalues[-top:], vectors[:, -top:]
    # An axis without variance, of fewer distinct rows than `top`, is dropped: its direction would be noise.
    real = eigenvalues > jnp.finfo(points.dtype).eps * total
    if points.shape[0] < points.shape[1]:
        vectors = scaled.T @ (vectors / jnp.sqrt(jnp.where(real, eigenvalues, 1)))
    axes = jnp.where(real, vectors, 0)
    kept = jnp.sum(jnp.where(real, eigenvalues, 0))
    return axes, jnp.where(total > 0, jnp.maximum(1 - kept / jnp.where(total > 0, total, 1), 0), 0)


@partial(jax.jit, static_argnames="top")
def _project(x, y, weights_x, weights_y, top):
    points = jnp.concatenate([x, y])
    weights = jnp.concatenate([weights_x, weights_y])
    axes, discarded = principal_axes(points, weights, top)
    centre = (weights @ points) / jnp.sum(weights)
    return (x - centre) @ axes, (y - centre) @ axes, discarded


def project(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    top: int | None,
) -> tuple[Array, Array, Array | None]:
    """Both samples on the top joint principal axes and the share of the variance left out, or as they are for None.

    The axes are those of the pooled rows, so that permuting the labels does not move them.
    """
    if top is None:
        return x, y, None
    check_count(top, 1, "projection")
    if top > min(x.shape[0] + y.shape[0] - 1, x.shape[1]):
        raise ValueError(
            f"projection is {top}, but {x.shape[0]} + {y.shape[0]} rows of {x.shape[1]} dimensions have at most "
            f"{min(x.shape[0] + y.shape[0] - 1, x.shape[1])} joint principal axes"
        )
    return _project(x, y, weights_x, weights_y, top)
