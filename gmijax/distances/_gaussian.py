"""W2 between the normal laws that have two samples' means and covariances."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax.distances._checks import check_common, check_pair, count_rows
from gmijax.distances._distance import Distance
from gmijax.distances._draws import split_rows
from gmijax.distances._inference import summary, weighted_variance
from gmijax.distances._projection import project


def _root(points: Float[Array, "n d"], weights: Float[Array, " n"]) -> tuple[Array, Array, Array]:
    """Mean, R and Q with S = R'R the unbiased covariance: the centred, scaled rows are QR; Q is None where n <= d."""
    share = weights / jnp.sum(weights)
    count = jnp.sum(weights > 0)
    mean = share @ points
    scaled = jnp.sqrt(share * count / (count - 1))[:, None] * (points - mean)
    if points.shape[0] <= points.shape[1]:
        return mean, scaled, jnp.eye(points.shape[0], dtype=points.dtype)
    orthogonal, upper = jnp.linalg.qr(scaled)
    return mean, upper, orthogonal


def _distance(x, y, weights_x, weights_y) -> tuple[Array, Array, Array]:
    """W2, and the influence of every row of x and of y on its square."""
    (mean_x, root_x, rows_x), (mean_y, root_y, rows_y) = _root(x, weights_x), _root(y, weights_y)
    # tr (S^1/2 T S^1/2)^1/2 is the nuclear norm of R_S R_T': singular values, not roots of small eigenvalues.
    left, singular, right = jnp.linalg.svd(root_x @ root_y.T, full_matrices=False)
    shift = mean_x - mean_y
    square = jnp.sum(shift**2) + jnp.sum(root_x**2) + jnp.sum(root_y**2) - 2 * jnp.sum(singular)

    def influence(points, weights, mean, rows, vectors, towards):
        """The derivative by mass at a row, (x - m)'(I - T)(x - m) + 2 shift'(x - m) with T the transport map."""
        centred = points - mean
        moved = jnp.sum((rows @ vectors) ** 2 * singular, axis=1)
        count = jnp.sum(weights > 0)
        scale = jnp.where(weights > 0, weights * count / (jnp.sum(weights) * (count - 1)), 1)
        return jnp.sum(centred**2, axis=1) - moved / scale + 2 * centred @ towards

    influence_x = influence(x, weights_x, mean_x, rows_x, left, shift)
    influence_y = influence(y, weights_y, mean_y, rows_y, right.T, -shift)
    return jnp.sqrt(jnp.maximum(square, 0)), influence_x, influence_y


@partial(jax.jit, static_argnames=("permutations", "level"))
def _estimate(x, y, weights_x, weights_y, *, permutations, level, key):
    value, influence_x, influence_y = _distance(x, y, weights_x, weights_y)
    variance = weighted_variance(influence_x, weights_x) + weighted_variance(influence_y, weights_y)
    deviation = jnp.sqrt(variance) / (2 * jnp.where(value > 0, value, 1))

    permuted, halves = split_rows(lambda *laws: _distance(*laws)[0], x, y, weights_x, weights_y, permutations, key=key)
    statistics = jnp.concatenate([value[None], permuted, halves])
    return summary(statistics, permutations, standard_error=deviation, level=level)


def gaussian_w2(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    projection: int | None = None,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """W2 (not squared) between the normal laws with the samples' means and unbiased covariances.

    sqrt(|m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x^1/2 S_y S_x^1/2)^1/2), the Frechet distance: a lower bound of the
    W2 of any two laws with these moments (Gelbrich 1990, 10.1002/mana.19901470121). Biased up by about d^2 / n in the
    square, and far off where n < d: project first, and compare `null`. The interval linearises the square by the
    optimal map; it holds away from the null.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: weights of x, shape (n,), >= 0; 0 for padding. Equal where None.
      weights_y: weights of y, shape (m,).
      projection: the number of joint principal axes to project to first; None for all dimensions.
      permutations: of the labels, for the null and the p-value; 0 for neither, nor for the halves.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the unit of the points.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    check_common(given, level, permutations)
    x, y, weights_x, weights_y = check_pair(x, y, weights_x, weights_y)
    n, m = count_rows(weights_x), count_rows(weights_y)
    x, y, discarded = project(x, y, weights_x, weights_y, projection)
    parts = _estimate(x, y, weights_x, weights_y, permutations=permutations, level=level, key=key)
    return Distance(**parts, discarded=discarded, n=n, m=m, name="Gaussian W2", given=given, space=space, level=level)
