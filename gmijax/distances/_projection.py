"""Projection of two samples to the principal axes of both together."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import eigh

from gmijax._checks import check_count
from gmijax.distances._checks import on_host


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


def _host_project(
    x: np.ndarray, y: np.ndarray, weights_x: np.ndarray, weights_y: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same by the host's library, which makes half of X X' and only the eigenvectors asked for."""
    points, weights = np.concatenate([x, y]), np.concatenate([weights_x, weights_y])
    points -= (weights @ points) / weights.sum()
    root = np.sqrt(weights)[:, None]
    scaled = root * points
    few = points.shape[0] < points.shape[1]
    matrix = scaled @ scaled.T if few else scaled.T @ scaled
    total = np.trace(matrix)
    eigenvalues, vectors = eigh(matrix, subset_by_index=[len(matrix) - top, len(matrix) - 1], check_finite=False)
    real = eigenvalues > np.finfo(points.dtype).eps * total
    vectors = np.where(real, vectors, 0)
    if few:  # X' v / s are the axes, so that the scores are X X' v / s
        scores = matrix @ (vectors / np.sqrt(np.where(real, eigenvalues, 1))) / np.where(root > 0, root, 1)
    else:
        scores = points @ vectors
    kept = eigenvalues[real].sum()
    return scores[: len(x)], scores[len(x) :], max(1 - float(kept / total), 0.0) if total > 0 else 0.0


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
    if on_host(x, y, weights_x, weights_y):
        parts = _host_project(np.asarray(x), np.asarray(y), np.asarray(weights_x), np.asarray(weights_y), top)
        near_x, near_y, discarded = (jnp.asarray(part, x.dtype) for part in parts)
        return near_x, near_y, discarded
    return _project(x, y, weights_x, weights_y, top)
