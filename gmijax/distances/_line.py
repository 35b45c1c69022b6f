"""Transport between weighted points on the line, exact by sorting; pure JAX."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from gmijax._checks import is_concrete


def _uniform_pieces(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where two uniform quantile functions are both constant: the rank in each sample, and the lengths."""
    unit = math.lcm(n, m)  # integers, so that no two edges differ by rounding alone
    edges = np.union1d(np.arange(1, n + 1) * (unit // n), np.arange(1, m + 1) * (unit // m))
    starts = np.concatenate([[0], edges[:-1]])
    return starts // (unit // n), starts // (unit // m), (edges - starts) / unit


def _weighted_gaps(x: Array, weights_x: Array, y: Array, weights_y: Array) -> tuple[Array, Array]:
    order_x, order_y = jnp.argsort(x), jnp.argsort(y)
    levels_x, levels_y = jnp.cumsum(weights_x[order_x]), jnp.cumsum(weights_y[order_y])
    levels_x, levels_y = levels_x / levels_x[-1], levels_y / levels_y[-1]
    edges = jnp.sort(jnp.concatenate([levels_x, levels_y]))
    lengths = jnp.diff(edges, prepend=0)
    middles = edges - lengths / 2
    rank_x = jnp.minimum(jnp.searchsorted(levels_x, middles), x.size - 1)
    rank_y = jnp.minimum(jnp.searchsorted(levels_y, middles), y.size - 1)
    # What lies between two edges that differ by rounding is nobody's mass, and would show in W_inf.
    rounding = 2 * (x.size + y.size) * jnp.finfo(x.dtype).eps
    return jnp.abs(x[order_x][rank_x] - y[order_y][rank_y]), jnp.where(lengths <= rounding, 0, lengths)


def _check(points: Array, weights: ArrayLike | None, name: str) -> None:
    if not points.ndim or not points.shape[-1]:
        raise ValueError(f"{name} must hold points along its last axis, got shape {points.shape}")
    if weights is not None and is_concrete(weights) and (np.asarray(weights) < 0).any():
        raise ValueError(f"weights_{name} must be >= 0; a weight of 0 leaves a point out")


def _gaps(x: ArrayLike, y: ArrayLike, weights_x: ArrayLike | None, weights_y: ArrayLike | None) -> tuple[Array, Array]:
    """|F^-1 - G^-1| on the pieces where both quantile functions are constant, and the pieces' lengths."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    _check(x, weights_x, "x")
    _check(y, weights_y, "y")
    dtype = jnp.result_type(x, y, jnp.float32)
    x, y = x.astype(dtype), y.astype(dtype)
    if weights_x is None and weights_y is None:
        rank_x, rank_y, lengths = _uniform_pieces(x.shape[-1], y.shape[-1])
        gaps = jnp.abs(jnp.sort(x, axis=-1)[..., rank_x] - jnp.sort(y, axis=-1)[..., rank_y])
        return gaps, jnp.asarray(lengths, dtype)
    weights_x = jnp.ones(x.shape[-1], dtype) if weights_x is None else jnp.asarray(weights_x, dtype)
    weights_y = jnp.ones(y.shape[-1], dtype) if weights_y is None else jnp.asarray(weights_y, dtype)
    return jnp.vectorize(_weighted_gaps, signature="(n),(n),(m),(m)->(k),(k)")(x, weights_x, y, weights_y)


def w1_line(
    x: Real[ArrayLike, "... n"],
    y: Real[ArrayLike, "... m"],
    weights_x: Real[ArrayLike, "... n"] | None = None,
    weights_y: Real[ArrayLike, "... m"] | None = None,
) -> Float[Array, "..."]:
    """W1 of two laws on the line: the area between their quantile functions. Jits and vmaps.

    Args:
      x: points of the first law, any number.
      y: points of the second law, any number.
      weights_x: masses of x, >= 0 with a positive sum, which need not be 1; equal where None.
      weights_y: likewise of y.

    Returns:
      The distance in the unit of the points. NaN for points or masses that are NaN, or masses that sum to 0.

    Raises:
      ValueError: for laws without points, and for masses that are negative where their values are known.
    """
    gaps, lengths = _gaps(x, y, weights_x, weights_y)
    return jnp.sum(gaps * lengths, axis=-1)


def w2_line(
    x: Real[ArrayLike, "... n"],
    y: Real[ArrayLike, "... m"],
    weights_x: Real[ArrayLike, "... n"] | None = None,
    weights_y: Real[ArrayLike, "... m"] | None = None,
) -> Float[Array, "..."]:
    """W2 (not squared) of two laws on the line; arguments as `w1_line`."""
    gaps, lengths = _gaps(x, y, weights_x, weights_y)
    square = jnp.sum(gaps**2 * lengths, axis=-1)
    # The root's slope at 0 is infinite, and two equal laws have a gradient of 0.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


def w_inf_line(
    x: Real[ArrayLike, "... n"],
    y: Real[ArrayLike, "... m"],
    weights_x: Real[ArrayLike, "... n"] | None = None,
    weights_y: Real[ArrayLike, "... m"] | None = None,
) -> Float[Array, "..."]:
    """W_inf of two laws on the line: the largest gap between their quantile functions; arguments as `w1_line`.

    With weights, mass within rounding (2 (n + m) times the dtype's epsilon) is not told from none.
    """
    gaps, lengths = _gaps(x, y, weights_x, weights_y)
    gaps = gaps + 0 * lengths  # NaN masses stay NaN
    return jnp.max(jnp.where(lengths == 0, 0, gaps), axis=-1)
