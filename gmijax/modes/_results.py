"""What the estimators of this room return for one number a mode."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gmijax.stats import Interval, normal_interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """An estimate with its uncertainty; all of one shape."""

    value: jax.Array
    standard_error: jax.Array
    interval: Interval


@partial(jax.jit, static_argnames="level")
def positive_estimate(value: Any, relative_error: Any, *, level: float) -> Estimate:
    """An estimate >= 0 whose logarithm is asymptotically normal: the interval is multiplicative and stays >= 0."""
    logarithm = normal_interval(jnp.zeros_like(value), relative_error, level=level)
    interval = Interval(value * jnp.exp(logarithm.lower), value * jnp.exp(logarithm.upper))
    return Estimate(value, value * relative_error, interval)


@jax.jit
def share_estimate(ratio: Estimate) -> Estimate:
    """The share r / (1 + r) of an estimated ratio r, in [0, 1]."""

    def share(r: jax.Array) -> jax.Array:
        return r / (1 + r)

    slope = 1 / jnp.square(1 + ratio.value)
    ends = Interval(share(ratio.interval.lower), share(ratio.interval.upper))
    return Estimate(share(ratio.value), slope * ratio.standard_error, ends)


@partial(jax.jit, static_argnames=("n", "level"))
def squared_correlation_estimate(correlation: Any, *, n: int, level: float) -> Estimate:
    """The squared correlation with Fisher's interval, which takes the pairs as normal."""
    r = jnp.clip(correlation, -1, 1)
    inside = jnp.clip(r, -1 + jnp.finfo(r.dtype).eps, 1 - jnp.finfo(r.dtype).eps)
    z = jnp.arctanh(inside)
    ends = normal_interval(z, jnp.full_like(z, 1 / max(n - 3, 1) ** 0.5), level=level)
    lower, upper = jnp.tanh(ends.lower), jnp.tanh(ends.upper)
    low = jnp.where(lower * upper < 0, 0, jnp.minimum(lower**2, upper**2))
    error = 2 * jnp.abs(r) * (1 - r**2) / max(n - 1, 1) ** 0.5
    return Estimate(r**2, error, Interval(low, jnp.maximum(lower**2, upper**2)))
