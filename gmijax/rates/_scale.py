"""The one-dimensional concave problem behind every rate: the best scale s of a score."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

MAX_ITERATIONS = 64


class Curve(NamedTuple):
    """I(s), I'(s) and I''(s) at the scales asked for; arrays of one shape."""

    value: jax.Array
    slope: jax.Array
    curvature: jax.Array


class ScaleSolution(NamedTuple):
    """Where I(s) is largest over s >= 0: `scale` (inf where the supremum is only approached) and `converged`."""

    scale: jax.Array
    converged: jax.Array
    iterations: jax.Array


def maximise_scale(
    curve: Callable[[jax.Array], Curve],
    at_zero: Curve,
    slope_limit: jax.Array,
    *,
    start: jax.Array | None = None,
) -> ScaleSolution:
    """Solves max over s >= 0 of a concave I(s) by safeguarded Newton steps (THEORY.md, F1).

    The problems of a batch are independent; one call of `curve` serves them all, so that the two folds of a
    cross-fit cost one pass over the scores. Each iterate is kept inside the bracket that the signs of I' have
    shown; without an upper end the step may at most grow the scale eightfold.

    Args:
      curve: maps scales, shape (...), to I, I' and I'' of the same shape. Called inside a while loop.
      at_zero: I, I', I'' at s = 0, shape (...). A pass without exponentials, so the caller has it anyway.
      slope_limit: the limit of I'(s) as s grows, shape (...). Where it is not negative (separable scores) and
        I'(0) > 0, the supremum is only approached and the scale returned is inf.
      start: a first guess, shape (...); the Newton step from s = 0 where it is None, 0 or not finite.

    Returns:
      The scale, to the square root of the dtype's rounding (its error enters I(s) squared).
    """
    dtype = at_zero.slope.dtype
    tolerance = jnp.sqrt(jnp.finfo(dtype).eps)
    zero = at_zero.slope <= 0
    unbounded = ~zero & (slope_limit >= 0)
    newton = at_zero.slope / jnp.maximum(-at_zero.curvature, jnp.finfo(dtype).tiny)
    start = newton if start is None else jnp.where(jnp.isfinite(start) & (start > 0), start, newton)
    start = jnp.where(zero | unbounded, 0, jnp.minimum(start, jnp.asarray(1e18, dtype)))

    def unfinished(state):
        _, _, _, done, iteration = state
        return ~jnp.all(done) & (iteration < MAX_ITERATIONS)

    def step(state):
        scale, low, high, done, iteration = state
        point = curve(scale)
        low = jnp.where(point.slope > 0, jnp.maximum(low, scale), low)
        high = jnp.where(point.slope > 0, high, jnp.minimum(high, scale))
        newton = scale - point.slope / jnp.where(point.curvature < 0, point.curvature, -jnp.inf)
        flat = ~(point.curvature < 0) & (point.slope > 0)  # the tail of a nearly separable sample: only grow
        newton = jnp.where(flat, jnp.inf, newton)
        ceiling = jnp.where(jnp.isinf(high), 8 * scale, high)
        inside = (newton > low) & (newton < ceiling)
        middle = jnp.where(jnp.isinf(high), 8 * scale, 0.5 * (low + high))
        proposal = jnp.where(inside, newton, middle)
        close = jnp.abs(proposal - scale) <= tolerance * proposal
        finished = close | (point.slope == 0)
        proposal = jnp.where(done | (point.slope == 0), scale, proposal)
        return proposal, low, high, done | finished, iteration + 1

    initial = (
        start,
        jnp.zeros_like(start),
        jnp.full_like(start, jnp.inf),
        zero | unbounded,
        jnp.zeros((), jnp.int32),
    )
    scale, _, _, done, iterations = lax.while_loop(unfinished, step, initial)
    return ScaleSolution(jnp.where(unbounded, jnp.inf, scale), done, iterations)
