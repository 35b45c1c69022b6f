"""Confidence intervals from standard errors, influence functions and bootstrap draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int
from scipy.special import stdtrit

TABLED = 200  # degrees of freedom up to which Student's quantiles come from a table; a series is exact to 1e-7 beyond


class Interval(NamedTuple):
    """A confidence interval; both ends have the shape of the estimate."""

    lower: jax.Array
    upper: jax.Array


def normal_interval(value: Array, standard_error: Array, *, level: float = 0.95) -> Interval:
    """The interval value +- z standard_error of an asymptotically normal estimate.

    Args:
      value: the estimate, shape (...).
      standard_error: its standard error, shape (...).
      level: the coverage asked for, in (0, 1).

    Returns:
      Both ends, shape (...).
    """
    half = ndtri(jnp.asarray(0.5 + 0.5 * level, standard_error.dtype)) * standard_error
    return Interval(value - half, value + half)


def student_interval(
    value: Array, standard_error: Array, degrees: Int[Array, "..."] | int, *, level: float = 0.95
) -> Interval:
    """The interval value +- t standard_error of a mean of few normal values, whose scatter is uncertain too.

    Args:
      value: the estimate, shape (...).
      standard_error: its standard error, shape (...).
      degrees: of freedom, one less than the values that `standard_error` is from, >= 1, shape (...).
      level: the coverage asked for, in (0, 1).

    Returns:
      Both ends, shape (...).
    """
    dtype = standard_error.dtype
    z = ndtri(jnp.asarray(0.5 + 0.5 * level, dtype))
    table = jnp.asarray(stdtrit(np.arange(1, TABLED + 1), 0.5 + 0.5 * level), dtype)
    many = jnp.maximum(jnp.asarray(degrees), TABLED).astype(dtype)
    # Cornish and Fisher's expansion in 1 / degrees (Abramowitz and Stegun, 26.7.5).
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    series = z + first / many + second / many**2 + third / many**3
    t = jnp.where(jnp.asarray(degrees) <= TABLED, table[jnp.clip(jnp.asarray(degrees), 1, TABLED) - 1], series)
    return Interval(value - t * standard_error, value + t * standard_error)


def influence_standard_error(
    influence: Float[Array, "... units"], strata: Int[Array, " units"] | None = None
) -> Float[Array, "..."]:
    """The standard error of an estimate that is, to first order, the mean of independent contributions.

    Args:
      influence: each unit's influence on the estimate, shape (..., units), scaled so that the estimate minus its
        limit is their mean. They are centred here.
      strata: the stratum of each unit in 0..units-1, if units were sampled in fixed numbers from each stratum: only
        the scatter within strata is then sampling error. A stratum of one unit is taken as known exactly.

    Returns:
      sqrt(sum (influence - mean)^2 / (units (units - 1))), shape (...); with strata, means and counts by stratum.
    """
    units = influence.shape[-1]
    if strata is None:
        return jnp.sqrt(jnp.var(influence, axis=-1, ddof=1) / units)
    count = jnp.zeros((units,), influence.dtype).at[strata].add(1)[strata]
    mean = jnp.zeros_like(influence).at[..., strata].add(influence)[..., strata] / count
    correction = count / jnp.maximum(count - 1, 1)
    return jnp.sqrt(jnp.sum(correction * jnp.square(influence - mean), axis=-1)) / units
