"""Intervals of a quantile that assume nothing of the law."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import bdtr

from gmijax.stats._intervals import Interval


def quantile_interval(
    values: Float[Array, "... n"], *, quantile: float, level: float = 0.95, effective: float | None = None
) -> Interval:
    """The interval of a quantile between two order statistics, from the binomial law of the count below it.

    Its coverage is at least `level` for independent values of any law, at every n; where n is too small for an end,
    that end is infinite. David and Nagaraja (2003), section 7.1, DOI 10.1002/0471722162.

    Args:
      values: independent values, shape (..., n).
      quantile: which quantile, in (0, 1].
      level: the coverage asked for, in (0, 1).
      effective: how many independent values the dependent ones are worth; n by default. The ends are then taken at
        the same shares of the order statistics, and the coverage is approximate.

    Returns:
      Both ends, shape (...).
    """
    n = values.shape[-1]
    trials = n if effective is None else max(1, int(effective))
    below = bdtr(np.arange(trials + 1), trials, quantile)
    below[-1] = 1.0  # quantile = 1 gives NaN there
    if quantile == 1:
        below[:-1] = 0.0
    tail = (1 - level) / 2
    first = int(np.searchsorted(below, tail, side="right"))  # the largest rank r with P(count < r) <= tail
    last = int(np.searchsorted(below, 1 - tail)) + 1
    ordered = jnp.sort(values, axis=-1)
    infinite = jnp.full(values.shape[:-1], jnp.inf, values.dtype)
    lower = ordered[..., max(0, first * n // trials - 1)] if first else -infinite
    upper = ordered[..., min(n, -(-last * n // trials)) - 1] if last <= trials else infinite
    return Interval(lower, upper)
