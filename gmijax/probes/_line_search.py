"""The line search of More and Thuente, for a batch of independent functions of a step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

MAX_EVALUATIONS = 20
_DECREASE = 1e-3  # of the slope at 0, as L-BFGS-B asks for
_CURVATURE = 0.9
_NARROW = 0.1  # an interval of uncertainty this narrow, relative to its upper end, ends the search
_SHRINK = 0.66  # the interval of uncertainty must lose a third in two trials, else it is halved


class Slope(NamedTuple):
    """A step, the change of the function since step 0 and the derivative there, all (problems,)."""

    step: jax.Array
    change: jax.Array
    slope: jax.Array


class _Search(NamedTuple):
    trial: jax.Array
    best: Slope
    other: Slope  # the other end of the interval of uncertainty
    bracketed: jax.Array
    armed: jax.Array  # the auxiliary function has done its work
    widths: jax.Array  # of the interval two trials and one trial ago, (2, problems)
    low: jax.Array
    high: jax.Array
    taken: jax.Array  # the accepted step, 0 where there is none yet
    active: jax.Array
    evaluations: jax.Array


def _where(condition: jax.Array, first: Slope, second: Slope) -> Slope:
    return Slope(*(jnp.where(condition, a, b) for a, b in zip(first, second, strict=True)))


def _cubic(a: Slope, b: Slope) -> tuple[jax.Array, jax.Array]:
    """The minimiser of the cubic through two points with their slopes, and whether it lies beyond b seen from a."""
    theta = 3 * (a.change - b.change) / (b.step - a.step) + a.slope + b.slope
    size = jnp.maximum(jnp.maximum(jnp.abs(theta), jnp.abs(a.slope)), jnp.abs(b.slope))
    root = size * jnp.sqrt(jnp.maximum((theta / size) ** 2 - (a.slope / size) * (b.slope / size), 0))
    root = jnp.where(b.step > a.step, -root, root)
    ratio = (root - b.slope + theta) / (2 * root - b.slope + a.slope)
    return b.step + ratio * (a.step - b.step), (ratio < 0) & (root != 0)


def _next(best: Slope, other: Slope, now: Slope, bracketed: jax.Array, low: jax.Array, high: jax.Array):
    """A safeguarded trial step and the new interval of uncertainty: the four cases of the paper's section 4."""
    cubic, beyond = _cubic(best, now)
    rise = (best.change - now.change) / (now.step - best.step)
    parabola = best.step + best.slope / (rise + best.slope) / 2 * (now.step - best.step)
    secant = now.step + now.slope / (now.slope - best.slope) * (best.step - now.step)
    higher = now.change > best.change
    turned = now.slope * jnp.sign(best.slope) < 0
    flatter = jnp.abs(now.slope) < jnp.abs(best.slope)
    edge = jnp.where(now.step > best.step, high, low)

    first = jnp.where(jnp.abs(cubic - best.step) < jnp.abs(parabola - best.step), cubic, cubic + (parabola - cubic) / 2)
    second = jnp.where(jnp.abs(cubic - now.step) > jnp.abs(secant - now.step), cubic, secant)
    away = jnp.where(beyond, cubic, edge)
    nearer = jnp.abs(away - now.step) < jnp.abs(secant - now.step)
    limit = now.step + _SHRINK * (other.step - now.step)
    inside = jnp.where(nearer, away, secant)
    inside = jnp.where(now.step > best.step, jnp.minimum(limit, inside), jnp.maximum(limit, inside))
    third = jnp.where(bracketed, inside, jnp.clip(jnp.where(nearer, secant, away), low, high))
    fourth = jnp.where(bracketed, _cubic(other, now)[0], edge)
    trial = jnp.where(higher, first, jnp.where(turned, second, jnp.where(flatter, third, fourth)))

    other = _where(higher, now, _where(turned, best, other))
    return trial, _where(higher, best, now), other, bracketed | higher | turned


def search(
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    slope: jax.Array,
    first: jax.Array,
    active: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Steps that satisfy the strong Wolfe conditions with the constants of L-BFGS-B (1e-3 and 0.9).

    More and Thuente (1994), DOI 10.1145/192115.192132.

    Args:
      evaluate: maps steps (problems,) to the change of each function since step 0 and its derivative, (problems,).
      slope: derivatives at 0, negative where active, (problems,).
      first: first trial steps, (problems,).
      active: problems that ask for a step, (problems,).
      noise: rounding of `change`: a decrease that is missed by less is accepted, (problems,).

    Returns:
      The steps, (problems,); 0 where inactive or where none was found.
    """
    slope = jnp.where(active, slope, -1)
    zero = Slope(jnp.zeros_like(slope), jnp.zeros_like(slope), slope)
    target = _DECREASE * slope

    def advance(s: _Search) -> _Search:
        change, derivative = evaluate(s.trial)
        now = Slope(s.trial, change, derivative)
        enough = change <= s.trial * target + noise
        accepted = enough & (jnp.abs(derivative) <= -_CURVATURE * slope)
        narrow = s.bracketed & ((s.trial <= s.low) | (s.trial >= s.high) | (s.high - s.low <= _NARROW * s.high))
        taken = jnp.where(s.active & (accepted | (narrow & enough)), s.trial, s.taken)
        finite = jnp.isfinite(change) & jnp.isfinite(derivative)
        active = s.active & ~accepted & ~narrow & finite

        armed = s.armed | (enough & (derivative >= 0))
        # Until then, steps are chosen by the function less its demanded decrease, where that has still to be met.
        tilt = jnp.where(~armed & (change <= s.best.change) & ~enough, target, 0)

        def lean(p):
            return Slope(p.step, p.change - tilt * p.step, p.slope - tilt)

        def stand(p):
            return Slope(p.step, p.change + tilt * p.step, p.slope + tilt)

        trial, best, other, bracketed = _next(lean(s.best), lean(s.other), lean(now), s.bracketed, s.low, s.high)
        best, other = stand(best), stand(other)

        width = jnp.abs(other.step - best.step)
        trial = jnp.where(bracketed & (width >= _SHRINK * s.widths[0]), best.step + (other.step - best.step) / 2, trial)
        widths = jnp.where(bracketed, jnp.stack([s.widths[1], width]), s.widths)
        low = jnp.where(bracketed, jnp.minimum(best.step, other.step), trial + 1.1 * (trial - best.step))
        high = jnp.where(bracketed, jnp.maximum(best.step, other.step), trial + 4 * (trial - best.step))
        stuck = bracketed & ((trial <= low) | (trial >= high) | (high - low <= _NARROW * high))
        trial = jnp.where(stuck, best.step, trial)
        return _Search(trial, best, other, bracketed, armed, widths, low, high, taken, active, s.evaluations + 1)

    wide = jnp.full_like(slope, 1e10)
    start = _Search(
        trial=first,
        best=zero,
        other=zero,
        bracketed=jnp.zeros_like(active),
        armed=jnp.zeros_like(active),
        widths=jnp.stack([2 * wide, wide]),
        low=jnp.zeros_like(slope),
        high=5 * first,
        taken=jnp.zeros_like(slope),
        active=active,
        evaluations=jnp.zeros((), jnp.int32),
    )

    def unfinished(s):
        return jnp.any(s.active) & (s.evaluations < MAX_EVALUATIONS)

    return lax.while_loop(unfinished, advance, start).taken
