"""Rank correlation, with an interval."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.scipy.special import ndtri
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax.stats._intervals import Interval
from gmijax.stats._resampling import permutation_p_value, permutations_within

_TOGETHER = 256  # permutations held at once


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation.

    Attributes:
      value: in [-1, 1].
      interval: at `level`; over what, says `interval_over`.
      p_value: two-sided, of the permutation test of independence.
      n: number of pairs.
      level: coverage of `interval`.
      interval_over: "pairs", if the pairs are a sample; "replicates", if they are all there is and only the values of
        `y` are uncertain.
    """

    value: jax.Array
    interval: Interval
    p_value: jax.Array
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    interval_over: str = field(metadata={"static": True})


def _ranks(x: Array) -> Array:
    """Ranks less their mean, ties sharing the middle of theirs, shape (n,)."""
    ordered = jnp.sort(x)
    below, up_to = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    return (below + up_to - x.shape[-1]).astype(x.dtype) / 2


def _correlation(ranks_x: Array, ranks_y: Array) -> Array:
    square = jnp.sum(ranks_x**2) * jnp.sum(ranks_y**2)
    return jnp.sum(ranks_x * ranks_y) / jnp.sqrt(square)


def _interval_over_pairs(value: Array, n: int, level: float) -> Interval:
    # Half a step below the largest value: at +-1 the transform is infinite, and its interval would have no width.
    largest = 1 - 6 / (n * (n**2 - 1))
    centre = jnp.arctanh(jnp.clip(value, -largest, largest))
    half = ndtri(jnp.asarray(0.5 + 0.5 * level, value.dtype)) * jnp.sqrt((1 + value**2 / 2) / (n - 3))
    ends = jnp.tanh(jnp.stack([centre - half, centre + half]))
    return Interval(jnp.where(value < -largest, -1, ends[0]), jnp.where(value > largest, 1, ends[1]))


@partial(jax.jit, static_argnames=("level", "draws"))
def _rank_correlation(x: Array, y: Array, replicates: Array | None, *, level: float, draws: int, key: Array):
    n, ranks_x, ranks_y = x.shape[0], _ranks(x), _ranks(y)
    value = _correlation(ranks_x, ranks_y)
    orders = permutations_within(jnp.zeros((n,), jnp.int32), draws, key=key)
    null = lax.map(lambda order: _correlation(ranks_x, ranks_y[order]), orders, batch_size=_TOGETHER)
    rounding = 4 * jnp.finfo(x.dtype).eps  # a permutation of ties is as extreme as the data
    p_value = permutation_p_value(jnp.abs(value) - rounding, jnp.abs(null))
    if replicates is None:
        interval = _interval_over_pairs(value, n, level)
    else:
        again = lax.map(lambda row: _correlation(ranks_x, _ranks(row)), replicates, batch_size=_TOGETHER)
        low, high = jnp.quantile(again, jnp.asarray([0.5 - 0.5 * level, 0.5 + 0.5 * level], x.dtype))
        low, high = jnp.minimum(low, 2 * value - high), jnp.maximum(high, 2 * value - low)
        interval = Interval(jnp.clip(low, -1, 1), jnp.clip(high, -1, 1))
    return RankCorrelation(value, interval, p_value, n, level, "pairs" if replicates is None else "replicates")


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    replicates: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = 9999,
    key: Array,
) -> RankCorrelation:
    """Spearman's rank correlation of two paired vectors; ties get middle ranks.

    Two different things may be uncertain. If the pairs are a sample, the interval is Bonett and Wright's (2000, DOI
    10.1007/BF02294183) by Fisher's transform; it is wide at small n and honest there. If the pairs are fixed, such as
    the modes of one law, and `y` was estimated from samples, give bootstrap `replicates` of it: the interval is then
    the hull of the basic and the percentile bootstrap's. Ranks jump, so neither is right alone: noise in `y` pulls a
    high correlation towards 0, which the percentile interval doubles, and near ties pull it anywhere. At 95 % the
    hull covered 89 to 99 % of 18 laws of 20 modes, the basic interval 75 to 93 %, the percentile interval 0 to 99 %.

    Args:
      x: shape (n,), n >= 4.
      y: shape (n,).
      replicates: bootstrap replicates of `y`, shape (replicates, n), or None.
      level: coverage of the interval.
      draws: permutations behind the p-value.
      key: a PRNG key.

    Returns:
      A `RankCorrelation`.

    Raises:
      ValueError: for shapes that do not fit, fewer than 4 pairs, values that are not finite, a vector that is constant
        (its ranks say nothing), `level` outside (0, 1), or `draws` below 1.
    """
    dtype = jnp.result_type(jnp.asarray(x), jnp.asarray(y), jnp.float32)
    first, second = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    if first.ndim != 1 or first.shape != second.shape or first.shape[0] < 4:
        raise ValueError(f"x and y must be vectors of one length of at least 4, got {first.shape} and {second.shape}")
    again = None if replicates is None else jnp.asarray(replicates, dtype)
    if again is not None and (again.ndim != 2 or again.shape[1] != first.shape[0] or len(again) < 2):
        raise ValueError(f"replicates must have shape (at least 2, {first.shape[0]}), got {again.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    for name, array in (("x", first), ("y", second), ("replicates", again)):
        if array is None or isinstance(array, Tracer):
            continue
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{name} holds NaN or infinite values; drop these pairs and say so")
        if (np.ptp(np.asarray(array), axis=-1) == 0).any():
            raise ValueError(f"{name} is constant, so that its ranks say nothing; there is no correlation to estimate")
    return _rank_correlation(first, second, again, level=level, draws=draws, key=key)
