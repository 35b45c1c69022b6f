"""The largest local slope that gradient ascent finds inside the data's region: a lower estimate of the constant."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete
from gmijax.sensitivity._constants import LipschitzConstant
from gmijax.sensitivity._gradients import Score, gradient_norms, total_score
from gmijax.sensitivity._samples import Samples, batches, check_samples, wide

REGIONS = ("ball", "box", "hull")

FIRST = 0.25  # of the region's radius
SMALLEST = 1e-3  # likewise: an ascent whose steps have shrunk below it has converged
EDGE = 1e-4  # likewise: this near the border counts as on it


@dataclass(frozen=True, eq=False)
class SearchedConstant(LipschitzConstant):
    """The largest slope that a search found: the constant of the region is at least this, up to rounding.

    Attributes:
      point: where it was found, shape (*block).
      sample: whose arguments (target, masks) it was found with.
      region: "ball", "box" or "hull".
      on_boundary: whether the point lies on the region's border; None for a hull, where it is not decided.
      converged: whether the steps of the best ascent had shrunk to nothing: no steeper point near by.
      path: the slope after each step of the best ascent, shape (steps + 1,).
      by_start: what every ascent found, shape (starts,).
      sampled_maximum: the largest slope at the points themselves, at most `value`.
      n: number of points.
    """

    point: np.ndarray | None = None
    sample: int = 0
    region: str = "ball"
    on_boundary: bool | None = None
    converged: bool = False
    path: np.ndarray | None = None
    by_start: np.ndarray | None = None
    sampled_maximum: float = 0.0
    n: int = 0


class _Bounds(NamedTuple):
    """The data's region: its mean, its radius around it, and what its kind needs."""

    centre: Array
    radius: Array
    lower: Array
    upper: Array
    corners: Array  # all points, for the hull


@partial(jax.jit, static_argnames="region")
def _bounds(points: Array, region: str) -> _Bounds:
    centre = jnp.mean(points, axis=0)
    distances = jnp.sqrt(jnp.sum(jnp.square(points - centre).reshape(len(points), -1), axis=1))
    corners = points if region == "hull" else points[:1]
    return _Bounds(centre, jnp.max(distances), jnp.min(points, axis=0), jnp.max(points, axis=0), corners)


def _lengths(rows: Array) -> Array:
    """Euclidean norms over all but the first axis, which they keep for broadcasting."""
    return jnp.sqrt(jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)), keepdims=True))


def _move(region: str, bounds: _Bounds, points: Array, direction: Array, size: Array) -> Array:
    """Points of the region that lie along a direction, at most `size` away up to the projection."""
    if region == "hull":  # towards the corner that lies farthest along the direction: no projection is needed
        flat = bounds.corners.reshape(len(bounds.corners), -1)
        best = jnp.argmax(direction.reshape(len(points), -1) @ flat.T, axis=1)
        towards = bounds.corners[best] - points
        return points + jnp.minimum(1, size / jnp.maximum(_lengths(towards), jnp.finfo(points.dtype).tiny)) * towards
    moved = points + size * direction
    if region == "box":
        return jnp.clip(moved, bounds.lower, bounds.upper)
    offset = moved - bounds.centre
    distance = jnp.maximum(_lengths(offset), jnp.finfo(points.dtype).tiny)
    return bounds.centre + offset * jnp.minimum(1, bounds.radius / distance)


@partial(jax.jit, static_argnames=("score", "region", "steps"))
def _ascend(score, operands, points, others, mask, bounds, keys, *, region, steps):
    """From each start the steepest point found, the slope after each step, and the last step's length."""
    slope = jax.grad(total_score(score, operands, others, mask))

    def climb(points):
        """The slope, and the direction in which its square grows fastest: the Hessian times the gradient."""
        gradient, pull = jax.vjp(slope, points)
        (ascent,) = pull(gradient)
        return _lengths(wide(gradient)), ascent

    def step(carry, count):
        """Looks at the candidate, keeps it if it is steeper, and proposes the next."""
        points, value, ascent, candidate, size = carry
        steeper, onward = climb(candidate)
        better = steeper > value
        points = jnp.where(better, candidate, points)
        value = jnp.where(better, steeper, value)
        ascent = jnp.where(better, onward, ascent)
        size = jnp.where(better, jnp.minimum(2 * size, bounds.radius), size / 2)
        length = _lengths(ascent)
        # A piecewise linear score is nowhere curved: there a step goes anywhere.
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, count), points.shape[1:]))(keys)
        flat = ~(length > 0)
        direction = jnp.where(flat, noise / _lengths(noise), ascent / jnp.where(flat, 1, length)).astype(points.dtype)
        candidate = _move(region, bounds, points, direction, size.astype(points.dtype))
        return (points, value, ascent, candidate, size), value

    shape = (len(points), *(1 for _ in points.shape[1:]))
    value = jnp.full(shape, -1, jnp.promote_types(points.dtype, jnp.float32))  # below every slope
    size = FIRST / 2 * bounds.radius.astype(value.dtype) * jnp.ones_like(value)
    start = (points, value, jnp.zeros_like(points), points, size)
    (points, _, _, _, size), path = lax.scan(step, start, jnp.arange(steps + 1))
    return points, path.reshape(steps + 1, -1).T, size.reshape(-1)


@partial(jax.jit, static_argnames=("count", "starts"))
def _draws(count: int, starts: int, key: Array) -> tuple[Array, Array, Array]:
    """Pairs of samples, where between them to start, and a key for each start's steps."""
    pairs, shares, steps = jax.random.split(key, 3)
    drawn = jax.random.randint(pairs, (2, starts), 0, count)
    return drawn, jax.random.uniform(shares, (starts,)), jax.random.split(steps, starts)


def _starts(samples: Samples, norms: np.ndarray, pairs: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, Any]:
    """Where to start, and whose arguments to take: half at the steepest points, half between two random ones."""
    points = np.asarray(samples.points)
    steepest = np.argsort(-norms, kind="stable")[: -(-len(shares) // 2)]
    rest = len(shares) - len(steepest)
    first, second = pairs[:, :rest]
    share = shares[:rest].reshape(-1, *(1 for _ in samples.block)).astype(points.dtype)
    between = share * points[first] + (1 - share) * points[second]
    return np.concatenate([steepest, first]), np.concatenate([points[steepest], between])


def searched_slope(
    score: Score,
    points: ArrayLike,
    *args: ArrayLike,
    space: str,
    region: str = "ball",
    starts: int = 16,
    steps: int = 40,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
    key: Array,
) -> SearchedConstant:
    """The largest gradient norm found by ascent inside a convex region that holds the points.

    Half of the ascents start at the steepest points, half between two random points, each with the arguments of one
    sample. A step follows the Hessian times the gradient, is kept if the slope grows and then doubled, and is else
    halved, so that no path ever descends. It is a *lower* estimate of the region's Lipschitz constant: a search proves
    nothing about what it has not found, and a bound from it is an index. It is never below the sampled slopes. A score
    that is piecewise linear (ReLU) is climbed by random steps only.

    Args:
      score: as in `gradient_norms`; twice differentiable.
      points: shape (n, *block).
      *args: as in `gradient_norms`.
      space: the name of the representations' space.
      region: "ball" around the points' mean, its radius their largest distance from it; "box", between their least
        and largest value in each coordinate; "hull", their convex hull, the smallest and searched by steps towards
        points (Frank and Wolfe). Padding counts as zero in all of them.
      starts: number of ascents.
      steps: of each.
      operands: as in `gradient_norms`.
      mask: as in `gradient_norms`.
      batch_size: ascents a pass. One costs about `3 steps` gradients.
      key: a PRNG key.

    Returns:
      A constant of kind "searched", with the point where it was found and whether the search had settled.

    Raises:
      ValueError: as `gradient_norms`, for an unknown region, no start or step, values that are traced, or slopes that
        are not finite.
    """
    samples = check_samples(points, args, mask, batch_size)
    if region not in REGIONS:
        raise ValueError(f"region must be one of {', '.join(map(repr, REGIONS))}, got {region!r}")
    if starts < 1 or steps < 1:
        raise ValueError(f"starts and steps must be at least 1, got {starts} and {steps}")
    if not is_concrete(samples.points, samples.mask, *samples.others, *jax.tree.leaves(operands)):
        raise ValueError("values are traced; a search chooses its starts by the slopes, so call it outside of jit")
    if mask is not None:
        zeroed = np.where(np.asarray(samples.mask)[..., None], np.asarray(samples.points), 0)
        samples = Samples(zeroed, samples.others, samples.mask, batch_size)
    norms = gradient_norms(score, samples.points, *args, operands=operands, mask=samples.mask, batch_size=batch_size)
    if not np.isfinite(norms).all():
        raise ValueError(f"the gradient of sample {np.isfinite(norms).argmin()} is not finite; drop this sample")
    pairs, shares, keys = _draws(len(samples), starts, key)
    chosen, where = _starts(samples, norms, np.asarray(pairs), np.asarray(shares))
    picked = samples.take(chosen)
    begin = Samples(where, picked.others, picked.mask, batch_size)
    bounds = _bounds(jnp.asarray(samples.points), region)
    found = []
    for batch in batches(begin):
        ends = _ascend(score, operands, *batch.arrays, bounds, keys[batch.rows], region=region, steps=steps)
        found.append([np.asarray(part)[: batch.fresh] for part in ends])
    ends, paths, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = int(np.argmax(paths[:, -1]))
    sampled = float(norms.max())
    point = ends[best] if mask is None else np.where(np.asarray(begin.mask)[best][..., None], ends[best], 0)
    return SearchedConstant(
        value=max(sampled, float(paths[best, -1])),
        kind="searched",
        space=space,
        assumptions=(f"the largest of {starts} ascents in the {region} of {len(samples)} points; a lower estimate",),
        point=point,
        sample=int(chosen[best]),
        region=region,
        on_boundary=_on_boundary(ends[best], bounds, region),
        converged=bool(sizes[best] <= SMALLEST * float(bounds.radius)),
        path=paths[best],
        by_start=paths[:, -1],
        sampled_maximum=sampled,
        n=len(samples),
    )


def _on_boundary(point: np.ndarray, bounds: _Bounds, region: str) -> bool | None:
    if region == "hull":
        return None
    margin = EDGE * float(bounds.radius)
    if region == "ball":
        return bool(np.linalg.norm(point - np.asarray(bounds.centre)) >= float(bounds.radius) - margin)
    free = np.asarray(bounds.upper > bounds.lower)
    near = (point <= np.asarray(bounds.lower) + margin) | (point >= np.asarray(bounds.upper) - margin)
    return bool((near & free).any())
